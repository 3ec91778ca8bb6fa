"""What a platform has to know of the service, in no platform's words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_ollama.settings import Settings

NAME = "mlx-ollama"
OPEN_FILES = 10_240
"""macOS starts programs with 256, and every connection is one."""

STOP_MARGIN_SECONDS = 5
"""What the platform waits beyond the supervisor, which waits beyond the drain budget: each ends what is below it."""


@dataclass(frozen=True)
class Plan:
    """`command` is what runs; `stop_seconds` how long it may take to end once it is asked to."""

    command: Sequence[str]
    stop_seconds: int

    @classmethod
    def of(cls, python: str, flags: Sequence[str], settings: Settings) -> "Plan":
        """A supervised gateway with these flags of `serve`.

        Nothing of the environment goes in: it may hold keys, and a service shall not depend on the shell from which it
        was installed.
        """
        supervisor = settings.drain + settings.supervise_stop + settings.supervise_hook_timeout
        return cls((python, "-m", "mlx_ollama", "supervise", *flags), math.ceil(supervisor) + STOP_MARGIN_SECONDS)
