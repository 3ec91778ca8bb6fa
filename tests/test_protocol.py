from dataclasses import replace

import pytest

from mlx_ollama import gojson
from mlx_ollama.framing import Decoder, ProtocolError, encode
from mlx_ollama.protocol import (
    Cancel,
    Embed,
    Embedded,
    Failed,
    Finished,
    Frame,
    Known,
    Ping,
    Pong,
    Prompt,
    Ready,
    Release,
    Released,
    Render,
    RenderedPrompt,
    Sampling,
    Share,
    Step,
    Submit,
    Unloadable,
)
from mlx_ollama.types import Delta, Message, TokenLogprob, ToolCall

PROMPT = Prompt(
    style="chat",
    context=4096,
    keep=4,
    shift=True,
    template="{{ .Prompt }}",
    messages=(
        Message("user", "hé😀"),
        Message("assistant", "", tool_calls=(ToolCall("f", {"b": 1, "a": [2]}, "i", 1),)),
    ),
    tools=({"type": "function"},),
    prefix=(1, 2),
)
SAMPLING = Sampling(7, 0.8, 40, 0.9, 0.0, 1.0, 64, 1.0, 0.0, 0.0, ("\n",), 0)
FRAMES: list[Frame] = [
    Submit(1, PROMPT, SAMPLING, True),
    Render(2, PROMPT),
    Cancel(1),
    Known(1, 20),
    Known(2, 7, 7, "é", "\n"),
    Ready("cpu", 10, 0, 8192),
    Unloadable("no weights"),
    Unloadable("no room", "memory"),
    Release("buffers"),
    Release(None),
    Released(1 << 40, 7),
    Submit(1, PROMPT, replace(SAMPLING, logprobs=0), False, '{"type":"object"}'),
    Submit(1, PROMPT, SAMPLING, False, "", (5, 6, 7)),
    Share(1 << 40),
    Ping(),
    Pong(),
    Pong(7),
    Step(((1, Delta("a", (5,), 0)), (2, Delta("é", (6, 7), 3)))),
    Step(
        (
            (1, Delta("", (5,), 0, thinking="hm")),
            (1, Delta("", (), 1, tool_calls=(ToolCall("f", {"b": 1, "a": {}}),))),
            (
                2,
                Delta(
                    "é", (6,), 3, logprobs=(TokenLogprob("é", -0.5, (195, 169), (TokenLogprob("é", -0.5, (195,)),)),)
                ),
            ),
        )
    ),
    Finished(1, "stop", 16, 5, 8, 9, (1, 2, 3)),
    Finished(1, "length", 16, 5, 8, 9, None),
    RenderedPrompt(2, "text", 1),
    Failed(1, "too_long", "why"),
    Embed(3, ("a", ""), 512, True, False, 8),
    Embedded(3, ((1, "[0.1,-1e-7]"), (0, "[1,0]")), 7, 0),
]


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 10_000])
def test_frames_survive_any_cut(pieces: int) -> None:
    stream = b"".join(encode(frame) for frame in FRAMES)
    decoder = Decoder()
    arrived = [frame for at in range(0, len(stream), pieces) for frame in decoder.feed(stream[at : at + pieces])]
    assert arrived == FRAMES


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x04[99]",
        b"\x00\x00\x00\x03abc",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x03[2]",
    ],
)
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Decoder().feed(garbage))


def test_numbers_that_remember_their_spelling_cross_as_numbers() -> None:
    call = ToolCall("f", {"x": gojson.loads(b"1.50"), "y": gojson.loads(b"99999999999999999999")})
    prompt = replace(PROMPT, messages=(Message("assistant", "", tool_calls=(call,)),))
    (frame,) = Decoder().feed(encode(Render(1, prompt)))
    assert isinstance(frame, Render)
    assert frame.prompt.messages[0].tool_calls[0].arguments == {"x": 1.5, "y": 1e20}
