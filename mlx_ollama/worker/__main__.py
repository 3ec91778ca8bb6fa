"""The worker process: `python -m mlx_ollama.worker --fd N`. Started by the gateway only, which names the model."""

import argparse
import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_ollama.logs import to_gateway
from mlx_ollama.protocol import Frame, Load, Ready, Unloadable
from mlx_ollama.worker.blas import preload_openblas
from mlx_ollama.worker.failure import failure_of
from mlx_ollama.worker.inbox import SocketInbox, SocketOutbox

if TYPE_CHECKING:
    from mlx_ollama.worker.embed import EmbedEngine
    from mlx_ollama.worker.engine import Engine

logger = logging.getLogger("mlx_ollama.worker")


def main() -> int:
    """Load the model that is asked for and serve until the gateway's end of the socket closes."""
    arguments = _parse()
    to_gateway(arguments.log_level)
    # Ctrl-C in a terminal is for the gateway, which ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock = socket.socket(fileno=arguments.fd)
    outbox = SocketOutbox(sock)
    inbox = SocketInbox(sock, outbox)
    try:
        ready, engine = _build(arguments, inbox, outbox)
    # Whatever stops a model from loading, the caller shall read the reason.
    except Exception as error:
        logger.debug("loading failed", exc_info=True)
        outbox.send([Unloadable(str(error) or type(error).__name__, failure_of(error))])
        return 1
    # The libraries' many objects live as long as the worker: no garbage collection needs to look at them again.
    gc.collect()
    gc.freeze()
    outbox.send([ready])
    engine.run(inbox)
    return 0


def _build(
    arguments: argparse.Namespace, inbox: SocketInbox, outbox: SocketOutbox
) -> "tuple[Ready, Engine] | tuple[Ready, EmbedEngine]":
    # Order matters: the BLAS before mlx, and the device before mlx-lm, whose stream belongs to the default device of
    # the moment in which it is imported.
    preload_openblas()
    from mlx_ollama.worker import device as devices  # noqa: PLC0415 - see above

    device = devices.select(arguments.device)
    from mlx_ollama.worker.build import PromptCache, build, warm  # noqa: PLC0415 - see above

    load = _asked(inbox.take(wait=False))
    if load is None:
        # Nobody waits yet: whatever model comes will find this done.
        warm()
    while load is None:
        load = _asked(inbox.take(wait=True))
    return build(
        Path(load.directory),
        device,
        outbox.send,
        prefill_slice=arguments.prefill_slice,
        prompt_cache=PromptCache(arguments.prompt_cache_bytes, arguments.prompt_cache_chooser, arguments.home),
    )


def _asked(frames: Iterable[Frame]) -> Load | None:
    return next((frame for frame in frames if isinstance(frame, Load)), None)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mlx_ollama.worker")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prefill-slice", type=float, default=0.25)
    parser.add_argument("--prompt-cache-bytes", type=int, default=0)
    parser.add_argument("--prompt-cache-chooser", default="mlx_ollama.worker.prefix_choice:LeastRecentlyUsed")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--log-level", default="info")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
