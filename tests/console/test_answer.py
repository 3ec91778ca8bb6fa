import io

from mlx_ollama.console.answer import AnswerWriter, timings


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_thinking_stands_apart() -> None:
    stream = io.StringIO()
    writer = AnswerWriter(stream, width=None, hide_thinking=False)
    for piece in ("\n h", "m", "\n"):
        writer.think(piece)
    writer.say("Sure")
    writer.say(" thing")
    writer.end()
    assert stream.getvalue() == "Thinking...\nhm\n...done thinking.\n\nSure thing\n\n"
    assert writer.text == "Sure thing"


def test_hidden_thinking() -> None:
    stream = io.StringIO()
    writer = AnswerWriter(stream, width=None, hide_thinking=True)
    writer.think("hm")
    writer.say("Sure")
    writer.end()
    assert stream.getvalue() == "Sure\n\n"


def test_thinking_that_was_cut_off() -> None:
    stream = io.StringIO()
    writer = AnswerWriter(stream, width=None, hide_thinking=False)
    writer.think("hm")
    writer.end()
    assert stream.getvalue() == "Thinking...\nhm\n...done thinking.\n\n\n"


def test_a_model_cannot_steer_a_terminal() -> None:
    screen, file = Screen(), io.StringIO()
    for stream in (screen, file):
        AnswerWriter(stream, width=None, hide_thinking=False).say("a\x1b]0;title\x07\tb\r\n\x9b1A")
    assert screen.getvalue() == "a]0;title\tb\n1A"
    assert file.getvalue() == "a\x1b]0;title\x07\tb\r\n\x9b1A"


def test_calls_are_told() -> None:
    stream = io.StringIO()
    AnswerWriter(stream, width=None, hide_thinking=False).call(
        [{"function": {"name": "get_w", "arguments": {"city": "Paris", "n": 3}}}]
    )
    assert stream.getvalue() == "get_w(city='Paris', n=3)\n"


def test_timings() -> None:
    last = {
        "total_duration": 2_000_000_000,
        "load_duration": 29_464,
        "prompt_eval_count": 17,
        "prompt_eval_duration": 500_000_000,
        "eval_count": 6,
        "eval_duration": 1_000_000_000,
    }
    assert timings(last).splitlines() == [
        "total duration:       2s",
        "load duration:        29.464µs",
        "prompt eval count:    17 token(s)",
        "prompt eval duration: 500ms",
        "prompt eval rate:     34.00 tokens/s",
        "eval count:           6 token(s)",
        "eval duration:        1s",
        "eval rate:            6.00 tokens/s",
    ]
    assert timings({}) == ""
