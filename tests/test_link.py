"""A worker's process from the gateway's side, where no request can bring about what is asked here."""

import asyncio
from pathlib import Path

import pytest

from mlx_ollama.errors import LoadFailed, WorkerDied
from mlx_ollama.link import WorkerLink
from mlx_ollama.pulse import Care


def test_a_worker_that_dies_before_it_gets_its_model_says_so_to_who_waits_for_it(tiny_directory: Path) -> None:
    async def load() -> None:
        link = await WorkerLink.start(
            device="cpu",
            prefill_slice=0.25,
            log_level="info",
            prompt_cache_bytes=0,
            prompt_cache_chooser="",
            home=tiny_directory,
            care=Care(heartbeat=5, patience=25, grace=5),
            verdict=lambda status, words: WorkerDied(words),
        )
        link.process.kill()
        await link.died.wait()
        link.load(tiny_directory)
        with pytest.raises(LoadFailed, match="SIGKILL"):
            await link.loaded(within=30)
        assert link.fell

    asyncio.run(load())
