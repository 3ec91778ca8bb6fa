"""A worker's process from the gateway's side, where no request can bring about what is asked here."""

import asyncio
from pathlib import Path

import psutil
import pytest

from mlx_ollama.errors import LoadFailed, WorkerDied
from mlx_ollama.link import WorkerLink
from mlx_ollama.pulse import Care
from tests.faults.standing import is_gone
from tests.support.server import wait_until


async def _link(home: Path) -> WorkerLink:
    return await WorkerLink.start(
        device="cpu",
        prefill_slice=0.25,
        log_level="info",
        prompt_cache_bytes=0,
        prompt_cache_chooser="",
        home=home,
        care=Care(heartbeat=5, patience=25, grace=5),
        verdict=lambda status, words: WorkerDied(words),
    )


def test_a_worker_that_dies_before_it_gets_its_model_says_so_to_who_waits_for_it(tiny_directory: Path) -> None:
    async def load() -> None:
        link = await _link(tiny_directory)
        link.process.kill()
        await link.died.wait()
        link.load(tiny_directory)
        with pytest.raises(LoadFailed, match="SIGKILL"):
            await link.loaded(within=30)
        assert link.fell

    asyncio.run(load())


def test_a_worker_to_which_nothing_can_be_written_is_used_no_more(tiny_directory: Path) -> None:
    """Requests of the same turn of the event loop would each be held to have been with it when it died."""

    async def write() -> None:
        link = await _link(tiny_directory)
        worker = psutil.Process(link.process.pid)
        worker.kill()
        wait_until(lambda: is_gone(worker), "its end")
        was_alive = link.alive
        link.grant(1)
        assert (was_alive, link.alive, link.died.is_set()) == (True, False, False), "noticed by whoever writes first"
        await link.died.wait()

    asyncio.run(write())
