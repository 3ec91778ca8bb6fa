"""How long the first answer of a model takes that is not loaded, from the request to its first token."""

import time
from collections import defaultdict

from tests.bench.contenders import NAMES, ask, helper, mlx_lm_server, turned
from tests.bench.figure import Figure, Target
from tests.bench.http_server import HttpServer
from tests.bench.jobs import Chat
from tests.bench.subjects import Subject
from tests.support.server import Server, serving, wait_until

SPARE = {"MLX_API_SPARE": "1"}
STILL_SECONDS = 1.5
CLOCK_TICKS = 0.025
"""Two ticks of the clock by which processor time is counted, and some."""

BEYOND_LOADING = Target(0.5)
LOAD, BARE = "mlx_lm.load alone", "mlx_lm.load and the bare loop"


def measure(model: str, subject: Subject, rounds: int) -> None:
    """Every process is fresh, has done its imports, and knows no model. The files have been read before."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for round_ in range(rounds):
        (text,) = subject.prompts(("cold", round_), 1)
        for cold in turned([_ours, _theirs, _alone], round_):
            for name, taken in cold(subject, Chat([{"role": "user", "content": text}], 8)).items():
                seconds[name].append(taken)
    print(f"\n{model}: first answer of a cold model, from request to first token")
    for name in (*NAMES[:2], LOAD, BARE):
        Figure(name, seconds[name], "s").show()
    beyond = [ours - load for ours, load in zip(seconds[NAMES[0]], seconds[LOAD], strict=True)]
    Figure(f"{NAMES[0]}, beyond {LOAD}", beyond, "s", BEYOND_LOADING).show()


def _ours(subject: Subject, chat: Chat) -> dict[str, float]:
    with serving(subject.home, env=SPARE) as server:
        _wait_until_warm(server)
        (answer,) = HttpServer(NAMES[0], server.port, subject.name, ours=True).chat([chat])
    return {NAMES[0]: answer.first}


def _wait_until_warm(server: Server) -> None:
    """A spare worker with its imports done takes no processor time; one that has not takes some on any machine."""
    (spare,) = wait_until(server.workers, "a spare worker")

    def is_still() -> bool:
        before = sum(spare.cpu_times()[:2])
        time.sleep(STILL_SECONDS)
        return bool(before and sum(spare.cpu_times()[:2]) - before < CLOCK_TICKS)

    wait_until(is_still, "a warm spare worker", 120)


def _theirs(subject: Subject, chat: Chat) -> dict[str, float]:
    with mlx_lm_server() as port:
        (answer,) = HttpServer(NAMES[1], port, str(subject.directory), ours=False).chat([chat])
    return {NAMES[1]: answer.first}


def _alone(subject: Subject, chat: Chat) -> dict[str, float]:
    with helper("loading") as process:
        taken = ask(process, {"directory": str(subject.directory), "messages": list(chat.messages)})
    return {LOAD: taken["load"], BARE: taken["first"]}
