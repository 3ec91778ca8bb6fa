"""`python -m mlx_ollama.supervisor --port=11435 …`: what `mlx-ollama supervise` becomes once it has read its flags."""

import sys
from collections.abc import Sequence

from mlx_ollama.settings import load
from mlx_ollama.supervisor.events import EventBus
from mlx_ollama.supervisor.loop import Supervisor
from mlx_ollama.supervisor.subscribers import subscribe_all


def main(flags: Sequence[str]) -> int:
    """Supervise a gateway with these flags, each of the form --name=value; the exit status."""
    named = (flag.removeprefix("--").partition("=") for flag in flags)
    settings = load({name.replace("-", "_"): value for name, _, value in named}).settings
    bus = EventBus()
    subscribe_all(bus, settings)
    try:
        return Supervisor(flags, settings, bus).run()
    finally:
        bus.close(settings.supervise_hook_timeout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
