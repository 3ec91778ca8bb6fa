"""Whom the supervisor tells of events unasked: a file, standard output, a webhook, a command."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlx_ollama.settings import Settings
from mlx_ollama.supervisor.events import Event, EventBus

LARGEST_FILE_BYTES = 1 << 20
"""Past this the file of events becomes `….1`, and a new one begins."""


def subscribe_all(bus: EventBus, settings: Settings) -> None:
    """Everyone whom the settings name."""
    bus.subscribe(EventFile(settings.events))
    bus.subscribe(StandardOutput())
    if settings.supervise_webhook:
        bus.subscribe(Webhook(settings.supervise_webhook, settings.supervise_hook_timeout))
    if settings.supervise_hook:
        bus.subscribe(Hook(settings.supervise_hook, settings.supervise_hook_timeout))


@dataclass(frozen=True)
class EventFile:
    """Appends each event as a line of JSON."""

    path: Path

    def __call__(self, event: Event) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if self.path.stat().st_size >= LARGEST_FILE_BYTES:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
        with self.path.open("a") as file:
            file.write(event.line())


class StandardOutput:
    """Prints each event as a line of JSON."""

    def __call__(self, event: Event) -> None:
        sys.stdout.write(event.line())
        sys.stdout.flush()


@dataclass(frozen=True)
class Webhook:
    """Posts each event as JSON; what comes back must be a 2xx within `timeout` seconds."""

    url: str
    timeout: float

    def __call__(self, event: Event) -> None:
        # Half of the supervisor's memory; who wants no webhook shall not pay for it.
        from urllib.request import Request, urlopen  # noqa: PLC0415 - see above

        # The settings have checked that the address is http or https.
        request = Request(self.url, event.line().encode(), {"content-type": "application/json"})  # noqa: S310
        with urlopen(request, timeout=self.timeout):  # noqa: S310
            pass


@dataclass(frozen=True)
class Hook:
    """Runs a command, without a shell, with the event as a line of JSON on its standard input.

    It has `timeout` seconds; then it is killed, with everything that it started.
    """

    command: tuple[str, ...]
    timeout: float

    def __call__(self, event: Event) -> None:
        process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
        )
        try:
            process.communicate(event.line(), timeout=self.timeout)
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            raise OSError(f"exit status {process.returncode}")
