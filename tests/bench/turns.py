"""What a conversation's second turn costs beside its first: time to first token."""

from collections import defaultdict

from tests.bench.contenders import NAMES, contenders, turned
from tests.bench.figure import Figure, Target, ratios
from tests.bench.jobs import Chat, Contender
from tests.bench.subjects import Subject

FIRST_TOKENS = 2000
SECOND_TOKENS = 24
ANSWER_TOKENS = 32
SECOND_TO_FIRST = Target(0.1)
BESIDE_THEIRS = Target(1.0)


def measure(model: str, subject: Subject, rounds: int) -> None:
    firsts: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for round_ in range(rounds):
        with contenders(subject) as rivals:
            for rival in turned(rivals, round_):
                first, second = _turns(rival, subject, round_)
                firsts[rival.name].append(first)
                seconds[rival.name].append(second)
    print(f"\n{model}: a chat of {FIRST_TOKENS} tokens, time to first token (the bare loop remembers nothing)")
    for name in NAMES:
        Figure(f"{name}, first turn", firsts[name], "s").show()
        Figure(f"{name}, second turn", seconds[name], "s", digits=3).show()
    ours, *others = NAMES
    Figure("second turn, ratio to the first", ratios(seconds[ours], firsts[ours]), target=SECOND_TO_FIRST).show()
    for name in others:
        target = BESIDE_THEIRS if name == "mlx_lm.server" else None
        Figure(f"second turn, ratio to {name}", ratios(seconds[ours], seconds[name]), target=target).show()


def _turns(rival: Contender, subject: Subject, round_: int) -> tuple[float, float]:
    """A question, its answer, and another question."""
    opening = {"role": "user", "content": subject.prompt(("turns", round_), FIRST_TOKENS)}
    (first,) = rival.chat([Chat([opening], ANSWER_TOKENS)])
    question = subject.prompt(("second", round_), SECOND_TOKENS)
    reply = {"role": "assistant", "content": first.text}
    (second,) = rival.chat([Chat([opening, reply, {"role": "user", "content": question}], ANSWER_TOKENS)])
    return first.first, second.first
