"""What the guard does at which level, in which order, and what it says."""

import asyncio
import logging
import signal
from dataclasses import replace

import pytest

from mlx_ollama.errors import NoRoom, OutOfMemory, WorkerDied
from mlx_ollama.memory.estimate import Need
from mlx_ollama.memory.gauge import Reading
from mlx_ollama.memory.guard import Level, MemoryGuard, Thresholds
from tests.memory.world import GB, World

DEFAULT = Thresholds(85.0, 95.0, 98.0)


def _guard(world: World, *, keep: int = 1, interval: float = 10.0) -> MemoryGuard:
    return MemoryGuard(world, DEFAULT, interval=interval, keep=keep)


def _need(weights: float, context: float = 0.0) -> Need:
    return Need(int(weights * GB), int(context * GB))


def _reserve(world: World, need: Need, *, keep: int = 1) -> list[int]:
    promised: list[int] = []
    asyncio.run(_guard(world, keep=keep).reserve(world, "new:latest", need, promised.append))
    return promised


@pytest.mark.parametrize(
    ("percent", "level"),
    [
        (84.9, Level.CALM),
        (85.0, Level.WARNING),
        (94.9, Level.WARNING),
        (95.0, Level.CRITICAL),
        (97.9, Level.CRITICAL),
        (98.0, Level.EMERGENCY),
        (100.0, Level.EMERGENCY),
    ],
)
def test_levels_begin_at_their_thresholds(percent: float, level: Level) -> None:
    assert DEFAULT.level(Reading(int(percent * 10), 1000)) is level


def test_a_warning_is_a_line_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World(86, old=1)
    guard = _guard(world)
    with caplog.at_level(logging.INFO, "mlx_ollama.memory.guard"):
        for base in (86, 86, 50):
            world.base = base * GB
            asyncio.run(guard.sample(world))
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "memory is warning: 87.0 % of 100.00 GB in use (system)"),
        ("INFO", "memory is calm: 51.0 % of 100.00 GB in use (system)"),
    ]
    assert world.deeds == []


@pytest.mark.parametrize(
    ("keep", "left"),
    [(0, []), (1, ["newest"]), (2, ["middle", "newest"]), (5, ["oldest", "middle", "newest"])],
)
def test_critical_unloads_idle_models_but_for_those_to_keep(keep: int, left: list[str]) -> None:
    world = World(95, oldest=0.5, middle=0.5, newest=0.5)
    asyncio.run(_guard(world, keep=keep).sample(world))
    assert list(world.models) == left
    assert world.deeds[:2] == ["buffers", "prefixes"]


def test_each_remedy_is_used_only_if_the_one_before_did_not_do() -> None:
    world = World(90, a=2, b=2, c=2)
    world.spare = {"buffers": 1 * GB, "prefixes": 0}
    asyncio.run(_guard(world).sample(world))
    assert world.deeds == ["buffers", "prefixes", "unload a"]
    world.spare["buffers"] = 3 * GB
    asyncio.run(_guard(world).sample(world))
    assert world.deeds[3:] == ["buffers"]
    world.spare["prefixes"] = 3 * GB
    asyncio.run(_guard(world).sample(world))
    assert world.deeds[4:] == ["buffers", "prefixes"]
    assert list(world.models) == ["b", "c"]


def test_a_worker_without_a_model_goes_first_and_comes_back_when_all_is_calm() -> None:
    world = World(94, a=0.5)
    world.spare["buffers"], world.warm = 1 * GB, 1 * GB
    guard = _guard(world, keep=0)
    done = []
    for base in (94, 90, 94.4, 80, 97):
        world.base, world.deeds = int(base * GB), []
        asyncio.run(guard.sample(world))
        done.append((world.deeds, guard.is_short))
    assert done == [
        (["spare worker", "buffers"], True),
        ([], True),
        ([], True),
        (["spare worker again"], False),
        (["spare worker", "buffers", "prefixes", "unload a"], True),
    ]


def test_an_emergency_takes_everything_idle_and_nothing_in_use() -> None:
    world = World(97, a=0.5, b=0.5, c=0.5)
    world.busy = {"b"}
    asyncio.run(_guard(world, keep=3).sample(world))
    assert world.deeds == ["buffers", "prefixes", "unload a", "unload c"]
    assert list(world.models) == ["b"]


def test_a_model_that_fits_is_promised_its_bytes() -> None:
    world = World(50)
    assert _reserve(world, _need(40, 4.9)) == [int(40 * GB) + int(4.9 * GB)]
    assert world.deeds == []


def test_what_does_not_fit_is_refused_with_the_sum_the_holders_and_the_setting() -> None:
    world = World(60, held=5)
    world.busy, world.pledged = {"held"}, 2 * GB
    with pytest.raises(NoRoom) as refused:
        _reserve(world, _need(30, 1.5))
    assert refused.value.message == (
        "not enough memory to load new:latest: 31.50 GB for it (30.00 GB of weights, 1.50 GB of context) + "
        "65.00 GB in use + 2.00 GB promised to others = 98.50 GB, and 95.00 GB is the most (95 % of 100.00 GB); "
        "held by held (1 in use)"
    )
    assert (refused.value.setting, refused.value.retry_after) == ("MLX_API_MEMORY_CRITICAL", 10)
    assert world.deeds == ["buffers", "prefixes"]


def test_what_is_to_fit_must_fit_into_the_container_too() -> None:
    """A container may be emptier than its machine, and yet too small."""

    class Boxed(World):
        def read(self) -> Reading:
            return replace(super().read(), beside=(Reading(1 * GB, 10 * GB, "container"),))

    assert _reserve(Boxed(40), _need(8)) == [8 * GB]
    with pytest.raises(NoRoom, match=r"9\.00 GB for it .* 1\.00 GB in use = 10\.00 GB, and 9\.50 GB is the most"):
        _reserve(Boxed(40), _need(9))
    boxed = Boxed(40)
    guard = _guard(boxed)
    asyncio.run(guard.sample(boxed))
    boxed.pledged = 9 * GB
    asyncio.run(guard.admit(boxed, "x"))
    boxed.pledged = 10 * GB
    with pytest.raises(NoRoom, match=r"9\.00 GB of 10\.00 GB are free"):
        asyncio.run(guard.admit(boxed, "x"))


def test_idle_models_make_room_as_they_must_and_the_new_one_counts_as_kept() -> None:
    world = World(10, oldest=30, newest=30)
    assert _reserve(world, _need(40)) == [40 * GB]
    assert list(world.models) == ["newest"]
    assert _reserve(world, _need(70)) == [70 * GB]
    assert list(world.models) == []
    world = World(10, oldest=30, newest=30)
    with pytest.raises(NoRoom):
        _reserve(world, _need(70), keep=2)
    assert list(world.models) == ["newest"]


def test_nothing_new_is_loaded_while_memory_is_critical() -> None:
    with pytest.raises(NoRoom, match=r"0\.00 GB for it"):
        _reserve(World(95), _need(0.001))


def test_two_loads_at_once_do_not_count_the_same_bytes_twice() -> None:
    world = World(10)
    guard = _guard(world)

    def promise(size: int) -> None:
        world.pledged += size

    async def both() -> list[BaseException | None]:
        loads = [guard.reserve(world, name, _need(50), promise) for name in ("first", "second")]
        return await asyncio.gather(*loads, return_exceptions=True)

    first, second = asyncio.run(both())
    assert first is None
    assert isinstance(second, NoRoom)


def test_an_answer_that_cannot_be_held_is_refused_and_others_are_let_in() -> None:
    world = World(90)
    guard = _guard(world)
    asyncio.run(guard.sample(world))
    world.pledged = 9 * GB
    asyncio.run(guard.admit(world, "big"))
    world.pledged = 11 * GB
    with pytest.raises(NoRoom, match=r"answer with big: 11\.00 GB .* 10\.00 GB of 100\.00 GB are free"):
        asyncio.run(guard.admit(world, "big"))
    world.base = 50 * GB
    asyncio.run(guard.admit(world, "big"))


def test_it_looks_once_an_interval() -> None:
    world = World(50)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        world.base = (90 + 5 * len(pauses)) * GB
        if len(pauses) == 3:
            raise asyncio.CancelledError

    async def watch() -> None:
        await _guard(world).watch(world, sleep)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch())
    assert pauses == [10.0] * 3
    # Looked at 50, 95 and 100 %.
    assert world.deeds == ["buffers", "prefixes"] * 2


def test_a_gauge_that_fails_once_does_not_end_the_guard(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(World):
        def read(self) -> Reading:
            raise OSError("no /proc here")

    rounds = 0

    async def sleep(seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            raise asyncio.CancelledError

    world = Broken(50)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(_guard(world).watch(world, sleep))
    assert [record.message for record in caplog.records] == ["the memory guard could not do its work"] * 3


@pytest.mark.parametrize(
    ("status", "percent", "kills", "kind"),
    [
        (-signal.SIGKILL, 50, 0, WorkerDied),
        (-signal.SIGKILL, 50, 1, OutOfMemory),
        (-signal.SIGKILL, 95, 0, OutOfMemory),
        (-signal.SIGABRT, 50, 1, WorkerDied),
        (-signal.SIGABRT, 95, 0, OutOfMemory),
        (-signal.SIGSEGV, 50, 0, WorkerDied),
        (-signal.SIGSEGV, 95, 0, OutOfMemory),
        (-signal.SIGTERM, 99, 1, WorkerDied),
        (1, 99, 1, WorkerDied),
        (None, 99, 1, WorkerDied),
    ],
)
def test_a_workers_end_is_want_of_memory_only_with_a_witness(
    status: int | None, percent: int, kills: int, kind: type
) -> None:
    world = World(percent)
    guard = _guard(world)
    asyncio.run(guard.sample(world))
    world.oom_kills = kills
    assert type(guard.verdict(status, "it ended")) is kind


def test_without_a_gauge_nothing_is_done_or_refused() -> None:
    world = World(100)
    guard = MemoryGuard(None, DEFAULT, interval=10, keep=1)

    async def everything() -> None:
        await guard.watch(world)
        await guard.sample(world)
        await guard.reserve(world, "x", _need(1000), lambda size: None)
        await guard.admit(world, "x")

    asyncio.run(everything())
    assert (world.deeds, guard.read()) == ([], None)
    assert type(guard.verdict(-signal.SIGKILL, "it ended")) is WorkerDied


def test_a_failure_is_an_emergency_with_or_without_a_gauge() -> None:
    world = World(10, a=1, b=1)
    world.busy = {"b"}
    asyncio.run(MemoryGuard(None, DEFAULT, interval=10, keep=1).clean_up(world, "a worker found no memory"))
    assert world.deeds == ["buffers", "prefixes", "unload a"]
