"""How much of the MLX thread's time is not model and sampler: an engine alone, its frames read by another process.

Jobs come as JSON lines, shares go back so.
"""

import gc
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_ollama.protocol import Prompt, Sampling, Submit
from mlx_ollama.worker.blas import preload_openblas
from mlx_ollama.worker.inbox import SocketOutbox
from tests.support.greedy import GREEDY

if TYPE_CHECKING:
    from mlx_ollama.worker.batch import Batch, Joining, Left, Sampled
    from mlx_ollama.worker.engine import Engine

READER = "import socket, sys; end = socket.socket(fileno=int(sys.argv[1]))\nwhile end.recv(1 << 18): pass"


@dataclass
class Timed:
    """A batch, and the seconds that its steps took: whatever they do is model and sampler."""

    batch: "Batch"
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.batch)

    def join(self, streams: "Sequence[Joining]") -> list[int]:
        return self.batch.join(streams)

    def step(self) -> "list[Sampled]":
        began = time.perf_counter()
        sampled = self.batch.step()
        self.seconds += time.perf_counter() - began
        return sampled

    def leave(self, handle: int) -> "Left | None":
        return self.batch.leave(handle)

    def close(self) -> None:
        self.batch.close()


def main() -> None:
    preload_openblas()
    from mlx_ollama.worker.batch import make_batch  # noqa: PLC0415 - after the BLAS
    from mlx_ollama.worker.engine import Engine  # noqa: PLC0415 - as above
    from mlx_ollama.worker.load import load  # noqa: PLC0415 - as above
    from mlx_ollama.worker.prefixes import Prefixes  # noqa: PLC0415 - as above
    from mlx_ollama.worker.tokenizer import Tokenizer  # noqa: PLC0415 - as above

    loaded = load(Path(sys.argv[1]), device="cpu")
    timed = Timed(make_batch(loaded.model, loaded.eos_token_ids))
    ours, theirs = socket.socketpair()
    with subprocess.Popen([sys.executable, "-c", READER, str(theirs.fileno())], pass_fds=(theirs.fileno(),)) as reader:
        engine = Engine(
            loaded.model,
            Tokenizer(loaded.tokenizer),
            loaded.eos_token_ids,
            SocketOutbox(ours).send,
            prefill_slice=0.25,
            new_batch=lambda: timed,
            prefixes=Prefixes(1 << 30),
        )
        # As a worker does.
        gc.collect()
        gc.freeze()
        print("ready", flush=True)
        for line in sys.stdin:
            job = json.loads(line)
            print(json.dumps(_share(engine, timed, job["prompts"], job["tokens"])), flush=True)
        reader.kill()


def _share(engine: "Engine", timed: Timed, prompts: Sequence[str], tokens: int) -> float:
    """The part of the time of decoding that is spent outside the batch's steps; reading the prompts is not in it."""
    sampling = Sampling(**{**GREEDY, "limit": tokens})
    engine.turn(
        Submit(at, Prompt(style="raw", context=4096, keep=0, shift=True, text=text), sampling, want_context=False)
        for at, text in enumerate(prompts)
    )
    while len(timed) < len(prompts):
        engine.turn([])
    timed.seconds, began = 0.0, time.perf_counter()
    while engine.busy:
        engine.turn([])
    return 1 - timed.seconds / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
