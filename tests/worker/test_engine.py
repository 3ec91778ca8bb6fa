"""The engine on a tiny model with real mlx: what a worker does between its frames."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_ollama.protocol import (
    Cancel,
    Failed,
    Finished,
    Frame,
    Prompt,
    Release,
    Released,
    Render,
    RenderedPrompt,
    Sampling,
    Step,
    Submit,
)
from mlx_ollama.types import Message
from mlx_ollama.worker import batch
from mlx_ollama.worker.engine import FRAME_INTERVAL_NS, Engine
from mlx_ollama.worker.groups import Groups
from mlx_ollama.worker.load import load
from mlx_ollama.worker.pacing import BRIEF, OVERDRAFT, SLICES_OF_A_CROWD, STEPS_A_SLICE
from mlx_ollama.worker.reading_cost import ReadingCost
from mlx_ollama.worker.sampling import Choice, Sampler
from mlx_ollama.worker.tokenizer import Tokenizer
from tests.support.greedy import GREEDY

PROMPTS = ["bada", "zuzu zize momo", "keti " * 40, "ra", "foo bar baz " * 9, "lele", "vi ni vi di", "so do so " * 25]


class Machine:
    """An engine and what it has sent."""

    def __init__(self, directory: Path, **options: Any) -> None:
        loaded = load(directory, device="cpu")
        self.tokenizer = Tokenizer(loaded.tokenizer)
        self.sent: list[Frame] = []
        self.model, self.end_tokens = loaded.model, loaded.eos_token_ids
        self.engine = Engine(
            loaded.model,
            self.tokenizer,
            loaded.eos_token_ids,
            self.sent.extend,
            new_batch=lambda: batch.make_batch(loaded.model, loaded.eos_token_ids),
            **{"prefill_slice": 0.25, **options},
        )

    def run(self, *arrivals: Iterable[Frame], turns: int = 2000) -> None:
        """Give arrivals one turn apart, then turn until nothing is under way."""
        for frames in arrivals:
            self.engine.turn(frames)
        for _ in range(turns):
            if not self.engine.busy:
                return
            self.engine.turn([])
        raise AssertionError("the engine does not come to rest")

    def begin(self, frames: list[Frame]) -> None:
        """Give arrivals one turn, and turn until as many streams decode."""
        self.engine.turn(frames)
        for _ in range(100):
            if len(self.engine._by_handle) >= len(frames):
                return
            self.engine.turn([])
        raise AssertionError("they do not decode")

    def steps(self) -> list[Step]:
        return [frame for frame in self.sent if isinstance(frame, Step)]

    def tokens(self, request: int) -> list[int]:
        deltas = [delta for frame in self.sent if isinstance(frame, Step) for delta in frame.deltas]
        return [token for own, delta in deltas if own == request for token in delta.tokens]

    def text(self, request: int) -> str:
        deltas = [delta for frame in self.sent if isinstance(frame, Step) for delta in frame.deltas]
        return "".join(delta.text for own, delta in deltas if own == request)

    def finished(self, request: int) -> Finished:
        return next(frame for frame in self.sent if isinstance(frame, Finished) and frame.id == request)


def submit(request: int, text: str, *, context: int = 2048, want_context: bool = True, **changes: Any) -> Submit:
    prompt = Prompt(style="raw", context=context, keep=4, shift=changes.pop("shift", True), text=text)
    return Submit(request, prompt, Sampling(**{**GREEDY, **changes}), want_context)


@pytest.fixture
def machine(tiny_directory: Path) -> Machine:
    return Machine(tiny_directory)


@pytest.fixture
def fresh(tiny_directory: Path) -> Callable[[], Machine]:
    return lambda: Machine(tiny_directory)


def test_greedy_text_varies(machine: Machine) -> None:
    machine.run([submit(at, text) for at, text in enumerate(PROMPTS)])
    answers = {tuple(machine.finished(at).context or ()) for at in range(len(PROMPTS))}
    assert len(answers) == len(PROMPTS)
    assert all(len(set(machine.tokens(at))) > 8 for at in range(len(PROMPTS)))


def test_a_batch_equals_single_runs(machine: Machine, fresh: Callable[[], Machine]) -> None:
    machine.run([submit(at, text) for at, text in enumerate(PROMPTS)])
    for at, text in enumerate(PROMPTS):
        alone = fresh()
        alone.run([submit(at, text)])
        assert alone.finished(at).context == machine.finished(at).context


def test_joining_and_leaving_change_nobody_elses_tokens(machine: Machine, fresh: Callable[[], Machine]) -> None:
    arrivals = [[submit(at, text, limit=8 + 5 * at)] for at, text in enumerate(PROMPTS)]
    machine.run(*arrivals[:3], [], [], [Cancel(0)], *arrivals[3:])
    for at, text in list(enumerate(PROMPTS))[1:]:
        alone = fresh()
        alone.run([submit(at, text, limit=8 + 5 * at)])
        assert alone.finished(at).context == machine.finished(at).context


def test_slices_of_a_prompt_change_nothing(tiny_directory: Path, machine: Machine) -> None:
    long = "keti zuzu momo " * 60
    machine.run([submit(1, long)])
    sliced = Machine(tiny_directory, prefill_slice=1e-9)
    sliced.run([submit(1, long)])
    assert sliced.finished(1).context == machine.finished(1).context


def test_a_seed_makes_sampling_repeatable_in_any_company(machine: Machine, fresh: Callable[[], Machine]) -> None:
    wild: dict[str, Any] = {"temperature": 1.5, "top_k": 0, "top_p": 1.0}
    company = [submit(at, text, seed=at, **wild) for at, text in enumerate(PROMPTS)]
    machine.run(company[:2], company[2:])
    for at in (0, 3, 7):
        alone = fresh()
        alone.run([submit(at, PROMPTS[at], seed=at, **wild)])
        assert alone.finished(at).context == machine.finished(at).context
        other = fresh()
        other.run([submit(at, PROMPTS[at], seed=99, **wild)])
        assert other.finished(at).context != machine.finished(at).context


def test_counts_and_positions_are_true(machine: Machine) -> None:
    machine.run([submit(1, "bada zuzu")])
    finished = machine.finished(1)
    prompt = machine.tokenizer.encode("bada zuzu")
    assert finished.prompt_tokens == len(prompt)
    assert (finished.reason, finished.eval_tokens) == ("length", 24)
    assert finished.context == (*prompt, *machine.tokens(1))
    assert machine.tokenizer.decode(machine.tokens(1)) == machine.text(1)
    positions = [delta.position for frame in machine.sent if isinstance(frame, Step) for _, delta in frame.deltas]
    assert positions == sorted(set(positions))
    assert min(finished.prompt_ns, finished.eval_ns) > 0


def test_a_stop_string_ends_the_answer_before_itself(machine: Machine, fresh: Callable[[], Machine]) -> None:
    machine.run([submit(1, "bada")])
    text = machine.text(1)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    stopped = fresh()
    stopped.run([submit(1, "bada", stop=(stop,))])
    assert stopped.text(1) == text[: text.index(stop)]
    assert stopped.finished(1).reason == "stop"
    assert stopped.finished(1).eval_tokens < 24


def test_the_context_is_a_limit_for_prompt_and_answer(machine: Machine) -> None:
    machine.run([submit(1, "bada zuzu", context=16, limit=0)])
    finished = machine.finished(1)
    assert finished.reason == "length"
    assert finished.prompt_tokens + finished.eval_tokens == 16


def test_a_long_prompt_loses_its_middle(machine: Machine) -> None:
    machine.run([submit(1, "keti zuzu momo " * 60, context=64, limit=0)])
    finished = machine.finished(1)
    assert finished.prompt_tokens == 4 + 30
    assert finished.prompt_tokens + finished.eval_tokens == 64
    assert len(finished.context or ()) > 180


def test_a_long_prompt_that_must_not_be_cut_is_refused(machine: Machine) -> None:
    machine.run([submit(1, "keti " * 100, context=64, shift=False), submit(2, "ra")])
    assert next(frame for frame in machine.sent if isinstance(frame, Failed)).kind == "too_long"
    assert machine.finished(2).eval_tokens == 24


def test_the_oldest_turns_go_first(machine: Machine) -> None:
    messages = (Message("system", "S"), *(Message("user", f"turn {at} " + "la " * 20) for at in range(9)))
    template = "{{ range .Messages }}[{{ .Role }}]{{ .Content }}{{ end }}"
    prompt = Prompt(
        style="chat", context=120, keep=4, shift=True, drop_oldest=True, template=template, messages=messages
    )
    machine.run([Submit(1, prompt, Sampling(**GREEDY), True)])
    read = machine.tokenizer.decode((machine.finished(1).context or ())[: machine.finished(1).prompt_tokens])
    assert read.startswith("[system]S[user]turn ")
    assert "turn 8" in read
    assert "turn 0" not in read
    kept = [at for at in range(9) if f"turn {at}" in read]
    assert kept == list(range(kept[0], 9)), "the newest stay, without a gap"
    assert machine.finished(1).prompt_tokens < 120


def test_quick_steps_share_a_frame_and_first_words_do_not_wait(machine: Machine) -> None:
    now = [0]
    machine.engine._clock = lambda: now[0]
    machine.engine.turn([submit(1, "bada", limit=40)])
    while not machine.steps():
        machine.engine.turn([])
    # The first word does not wait until the next one is under way, so nothing comes of this turn.
    machine.engine.turn([])
    now[0] += FRAME_INTERVAL_NS * 5 // 9
    machine.engine.turn([])
    assert len(machine.steps()) == 1, "half an interval after the last frame it waits"
    now[0] += FRAME_INTERVAL_NS * 5 // 9
    machine.engine.turn([])
    frame = machine.sent[-1]
    assert isinstance(frame, Step)
    assert [delta.position for _, delta in frame.deltas] == [1, 2]
    machine.engine.turn([])
    machine.run([submit(2, "ra")])
    assert "".join(machine.tokenizer.decode([token]) for token in machine.tokens(1)) == machine.text(1)
    assert len(machine.tokens(1)) == 40


@pytest.mark.parametrize("when", ["prefill", "decode"])
def test_cancelling_frees_everything(machine: Machine, when: str) -> None:
    machine.engine._pacing.slice = 1
    machine.engine.turn([submit(1, "keti " * 100, limit=0), submit(2, "ra")])
    while when == "decode" and not machine.tokens(1):
        machine.engine.turn([])
    machine.run([Cancel(1)])
    said = len(machine.tokens(1))
    assert machine.finished(2).eval_tokens == 24
    assert len(machine.tokens(1)) == said
    assert not machine.engine._by_handle
    assert not machine.engine._batch


def test_a_prompt_that_takes_long_to_tokenise_holds_nobody_up(machine: Machine) -> None:
    machine.engine.turn([submit(1, "bada", limit=0, context=8000)])
    long = "keti zuzu momo " * 12_000
    machine.engine.turn([submit(2, long, context=8000), submit(3, long, context=8000)])
    said = len(machine.tokens(1))
    while len(machine.engine._preparing) == 2:
        machine.engine.turn([])
    assert len(machine.tokens(1)) - said > 2
    machine.run([Cancel(3), Cancel(1)])
    assert machine.finished(2).prompt_tokens == 4 + (8000 - 4) // 2
    assert not any(isinstance(frame, Finished) and frame.id == 3 for frame in machine.sent)
    prompt = Prompt(style="raw", context=64, keep=0, shift=True, text=long)
    machine.run([Render(4, prompt)])
    assert machine.sent[-1] == RenderedPrompt(4, long, len(machine.tokenizer.encode(long)))


def test_slices_are_brief_while_others_decode(machine: Machine) -> None:
    engine, pacing = machine.engine, machine.engine._pacing
    whole = pacing.slice
    engine.turn([submit(1, "keti " * 500)])
    assert engine._next_pass() == whole, "nobody decodes"
    machine.run([Cancel(1)])
    machine.begin([submit(2, "bada", limit=0)])
    assert engine._next_pass() == 0, "there is nothing to read"
    pacing.step = whole // 100
    assert pacing.between_steps(0, 0, 1) == whole // BRIEF
    assert pacing.between_steps(50, 0, 1) == pytest.approx(whole // 2, rel=0.01), "fifty wait for one"
    assert pacing.between_steps(50, 15, 10) == whole // BRIEF
    pacing.step = whole // STEPS_A_SLICE // 2
    assert pacing.between_steps(0, 0, 1) == pytest.approx(whole // 2, rel=0.01)
    pacing.step = whole
    assert pacing.between_steps(0, 0, 1) == whole


def test_a_crowd_that_arrives_while_its_first_is_read_decodes_together(tiny_directory: Path) -> None:
    machine = Machine(tiny_directory, clock=lambda: 0)
    machine.engine.turn([submit(0, PROMPTS[0])])
    assert not machine.engine._by_handle
    machine.begin([submit(at, text) for at, text in enumerate(PROMPTS[1:6], 1)])
    assert {request for request, _ in machine.steps()[0].deltas} == set(range(6))


def test_who_is_read_does_not_wait_for_others_for_ever(tiny_directory: Path) -> None:
    now, passes = [0], 0
    machine = Machine(tiny_directory, clock=lambda: now[0])

    class Slow:
        layers = machine.model.layers

        def __call__(self, tokens: mx.array, cache: Any) -> Any:
            nonlocal passes
            passes += 1
            now[0] += machine.engine._pacing.slice * 9 // 10
            return machine.model(tokens, cache=cache)

    machine.engine._prefill._model = Slow()
    machine.engine._prefill._longest_slice = 2048
    words = ["ba", "ve", "zi", "mo", "lu", "ko"]
    for at, word in enumerate(words):
        assert not machine.engine._by_handle
        machine.engine.turn([submit(at, f"{word} " * 80, limit=2)])
    assert passes == 1 + SLICES_OF_A_CROWD
    assert len(machine.engine._by_handle) == passes
    machine.run()
    assert all(machine.finished(at) for at in range(len(words)))


def test_a_short_prompt_is_read_whole_where_others_decode(tiny_directory: Path) -> None:
    now, passes = [0], []
    machine = Machine(tiny_directory, clock=lambda: now[0])
    engine = machine.engine
    machine.begin([submit(1, "bada", limit=0)])

    class Slow:
        layers = machine.model.layers

        def __call__(self, tokens: mx.array, cache: Any) -> Any:
            passes.append(tokens.size)
            now[0] += int(1e9 * engine._prefill._cost.of(tokens.size))
            return machine.model(tokens, cache=cache)

    engine._prefill._model = Slow()
    engine._prefill._cost, engine._prefill._longest_slice = ReadingCost(weights=0.0101, token=0.00017), 2048
    # 50 ms are left for reading between two steps, enough for 234 tokens.
    for at, words in enumerate((100, 150, 200, 300), 2):
        text = "keti " * words
        engine.turn([submit(at, text, context=8000)])
        while at not in {stream.id for stream in engine._by_handle.values()}:
            engine.turn([])
        read = len(machine.tokenizer.encode(text)) - 1
        most = int((OVERDRAFT * 0.05 - 0.0101) / 0.00017)
        assert passes == [read] if read <= most else sum(passes) == read and len(passes) > 1
        passes.clear()


def test_a_short_chat_does_not_wait_for_a_long_prompt(machine: Machine) -> None:
    machine.engine._prefill._cost = ReadingCost(token=0.01)
    machine.engine.turn([submit(1, "keti zuzu momo " * 200, context=8000), submit(2, "bada")])
    machine.engine.turn([])
    assert [stream.id for stream in machine.engine._by_handle.values()] == [2]


def test_answers_go_on_while_a_long_prompt_is_read(machine: Machine) -> None:
    machine.begin([submit(1, "bada", limit=0, context=8000)])
    machine.engine._pacing.slice = 2_000_000
    machine.engine.turn([submit(2, "keti zuzu momo " * 200, context=8000)])
    before = len(machine.tokens(1))
    while not machine.tokens(2):
        machine.engine.turn([])
    assert machine.engine._by_handle
    assert len(machine.tokens(1)) > before + 4
    machine.run([Cancel(1)])


def test_rendering_and_bad_templates(machine: Machine) -> None:
    chat = Prompt(style="chat", context=64, keep=0, shift=True, messages=(Message("user", "hi"),))
    fill = Prompt(
        style="fill", context=64, keep=0, shift=True, template="<{{ .Prompt }}|{{ .Suffix }}>", text="a", suffix="b"
    )
    bad = Prompt(style="chat", context=64, keep=0, shift=True, template="{{ .X", messages=(Message("user", "hi"),))
    machine.engine.turn([Render(1, chat), Render(2, fill), Submit(3, bad, Sampling(**GREEDY), True)])
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert machine.sent == [
        RenderedPrompt(1, text, len(machine.tokenizer.encode(text))),
        RenderedPrompt(2, "<a|b>", len(machine.tokenizer.encode("<a|b>"))),
        Failed(3, "template", "template: :1: unclosed action"),
    ]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("poisoned"), "failed"),
        (RuntimeError("[malloc] Unable to allocate 68719476736 bytes."), "memory"),
        (RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008)"), "memory"),
        (MemoryError(), "memory"),
        (ValueError("cannot allocate a name"), "failed"),
    ],
)
def test_a_broken_step_fails_its_streams_and_the_engine_lives_on(
    machine: Machine, fresh: Callable[[], Machine], error: Exception, kind: str
) -> None:
    class Poisoned:
        def __getattr__(self, name: str) -> Any:
            raise error

    machine.begin([submit(1, "bada"), submit(2, "ra")])
    poisoned = batch.Joining([5, 6], [Poisoned() for _ in _cache(machine)], Sampler(Choice()), [], 5)
    machine.engine._batch.join([poisoned])
    machine.engine.turn([])
    failed = [frame for frame in machine.sent if isinstance(frame, Failed)]
    assert {(frame.id, frame.kind) for frame in failed} == {(1, kind), (2, kind)}
    machine.run([submit(3, "bada")])
    alone = fresh()
    alone.run([submit(3, "bada")])
    assert machine.finished(3).context == alone.finished(3).context


def test_a_processor_that_fails_fails_its_stream_alone(machine: Machine, fresh: Callable[[], Machine]) -> None:
    def poisoned(tokens: list[int], logits: mx.array) -> mx.array:
        raise ValueError(f"no more after {len(tokens)}")

    requests = [submit(at, text, repeat_penalty=1.3) for at, text in enumerate(PROMPTS[:3])]
    machine.engine.turn(requests)
    machine.engine._streams[1].processors.append(poisoned)
    machine.run()
    (failed,) = (frame for frame in machine.sent if isinstance(frame, Failed))
    assert failed.id == 1
    assert failed.reason.startswith("ValueError: no more after")
    for at in (0, 2):
        alone = fresh()
        alone.run([requests[at]])
        assert machine.finished(at).context == alone.finished(at).context


def test_a_processor_that_has_failed_is_not_asked_again(machine: Machine) -> None:
    """The step after one in which others join says nothing, not even this."""
    asked: list[int] = []

    def poisoned(tokens: list[int], logits: mx.array) -> mx.array:
        asked.append(len(tokens))
        raise ValueError("no more")

    machine.begin([submit(1, "bada", repeat_penalty=1.3)])
    machine.engine.turn([submit(2, "ra")])
    while len(machine.engine._by_handle) < 2:
        machine.engine.turn([])
    machine.engine._streams[1].processors.append(poisoned)
    machine.run()
    assert len(asked) == 1
    assert [frame.id for frame in machine.sent if isinstance(frame, Failed)] == [1]


def test_a_processor_that_fails_after_the_end_fails_nobody(machine: Machine) -> None:
    """A step begins before it is known whether anybody wants its tokens."""
    limit = 12

    def poisoned(tokens: list[int], logits: mx.array) -> mx.array:
        if len(tokens) - read >= limit:
            raise ValueError("no more")
        return logits

    machine.begin([submit(1, "bada", limit=limit)])
    (stream,) = machine.engine._streams.values()
    read = len(stream.prompt.fed)
    stream.processors.append(poisoned)
    machine.run()
    assert machine.finished(1).reason == "length"
    assert len(machine.tokens(1)) == limit


def test_who_may_not_join_is_told(machine: Machine, fresh: Callable[[], Machine]) -> None:
    made = iter([batch.ContinuousBatch(machine.model, machine.end_tokens)])
    machine.engine._batch = Groups(lambda: next(made), can_share=False)
    machine.run([submit(1, "bada"), submit(2, "ra")])
    failed = {frame.id: frame.reason for frame in machine.sent if isinstance(frame, Failed)}
    assert failed == {1: "StopIteration: ", 2: "StopIteration: "}
    machine.run([submit(3, "bada")])
    alone = fresh()
    alone.run([submit(3, "bada")])
    assert machine.finished(3).context == alone.finished(3).context


def test_caches_that_cannot_merge_are_served_beside_each_other(machine: Machine, fresh: Callable[[], Machine]) -> None:
    alone = partial(batch.ContinuousBatch, machine.model, machine.end_tokens)
    machine.engine._batch = Groups(alone, can_share=False)
    requests = [submit(at, text, repeat_penalty=1.3) for at, text in enumerate(PROMPTS[:4])]
    machine.run(requests, [Cancel(1)])
    for at in (0, 2, 3):
        together = fresh()
        together.run([requests[at]])
        assert machine.finished(at).context == together.finished(at).context


def _cache(machine: Machine) -> list[Any]:
    cache = make_prompt_cache(machine.model)
    machine.model(mx.array([[5]]), cache=cache)
    return list(cache)


def test_buffers_are_given_back_when_asked_for(machine: Machine) -> None:
    for number in (1, 2):
        machine.run([submit(number, "bada " * 50)])
        held = mx.get_cache_memory()
        assert held > 0
        machine.engine.turn([Release(None)])
        assert machine.sent[-1] == Released(0, held)
        machine.engine.turn([Release("buffers")])
        released = machine.sent[-1]
        assert isinstance(released, Released)
        assert released.freed >= held
        assert released.left == 0
        assert mx.get_cache_memory() == 0
    machine.engine.turn([Release("prefixes")])
    assert machine.sent[-1] == Released(0, 0)
