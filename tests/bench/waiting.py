"""How long short chats wait for their first token while a prompt of 4,000 tokens is being read."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from tests.bench.contenders import NAMES, contenders, turned
from tests.bench.figure import Figure, Target, percentile, ratios
from tests.bench.jobs import Chat
from tests.bench.subjects import Subject

LONG_TOKENS = 4000
SHORT_CHATS = 16
SHORT_TOKENS = 24
ANSWER_TOKENS = 8
PERCENTILES = (50, 95)
MOST = Target(0.25)


def measure(model: str, subject: Subject, rounds: int) -> None:
    """Chats arrive at the same moments for everybody, within the time in which the bare loop reads the prompt alone."""
    short: dict[str, list[Sequence[float]]] = defaultdict(list)
    long: dict[str, list[float]] = defaultdict(list)
    alone = []
    for round_ in range(rounds):
        with contenders(subject) as rivals:
            alone.append(rivals[-1].chat([_chat(subject.prompt(("alone", round_), LONG_TOKENS))])[0].first)
            chats = _chats(subject, round_, alone[-1])
            for rival in turned(rivals, round_):
                first, *others = [answer.first for answer in rival.chat(chats)]
                long[rival.name].append(first)
                short[rival.name].append(others)
    print(f"\n{model}: {SHORT_CHATS} short chats while a prompt of {LONG_TOKENS} tokens is read, time to first token")
    _show(short, long, alone)


def _chats(subject: Subject, round_: int, seconds: float) -> list[Chat]:
    """The long one, and short ones that arrive while it is read."""
    generator = random.Random(round_)
    moments = sorted(generator.uniform(0.05, 0.9) * seconds for _ in range(SHORT_CHATS))
    shorts = [_chat(subject.prompt((round_, at), SHORT_TOKENS), at) for at in moments]
    return [_chat(subject.prompt(("long", round_), LONG_TOKENS)), *shorts]


def _chat(text: str, at: float = 0.0) -> Chat:
    return Chat([{"role": "user", "content": text}], ANSWER_TOKENS, at)


def _show(
    short: Mapping[str, Sequence[Sequence[float]]], long: Mapping[str, Sequence[float]], alone: Sequence[float]
) -> None:
    Figure("bare loop, the long prompt alone", alone, "s").show()
    ours, *others = NAMES
    for percent in PERCENTILES:
        waits = {name: [percentile(waited, percent) for waited in short[name]] for name in NAMES}
        for name in NAMES:
            Figure(f"{name}, p{percent} of the short chats", waits[name], "s").show()
        for name in others:
            target = MOST if name == "mlx_lm.server" else None
            Figure(f"p{percent}, ratio to {name}", ratios(waits[ours], waits[name]), target=target).show()
    for name in NAMES:
        Figure(f"{name}, the long prompt beside them", long[name], "s").show()
