"""A launchd property list for the user's own session, and `launchctl`."""

import os
import plistlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlx_ollama.autostart.effects import run, write_private
from mlx_ollama.autostart.plan import NAME, OPEN_FILES, Plan

LABEL = f"local.{NAME}"
NOT_LOADED = 3
"""What `launchctl bootout` returns for a service that is not there: ESRCH."""

POLL_SECONDS = 0.5
"""How often launchd is asked whether a service that is to end is still there."""


def property_list(plan: Plan, output: Path) -> bytes:
    """The agent: restarted on failure only, run at the speed of what a user waits for, and given more time to end than
    the drain takes (launchd.plist(5)). `output` takes what is said outside of the log.
    """
    files = {"NumberOfFiles": OPEN_FILES}
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": list(plan.command),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            # Others are slowed down, GPU included, while nobody touches the keyboard.
            "ProcessType": "Interactive",
            "ExitTimeOut": plan.stop_seconds,
            "SoftResourceLimits": files,
            "HardResourceLimits": files,
            "StandardOutPath": str(output),
            "StandardErrorPath": str(output),
        },
        sort_keys=False,
    )


class Launchd:
    """The service under launchd. `home` is the user's home folder."""

    tool = "launchctl"
    advice = "It starts whenever you log in."

    def __init__(
        self, home: Path, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self.path = home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
        logs = home / "Library" / "Logs" / NAME
        self.log = logs / f"{NAME}.log"
        self.output = logs / "output.log"
        self._domain = f"gui/{os.getuid()}"
        self._target = f"{self._domain}/{LABEL}"

    def flags(self) -> Sequence[str]:
        """Our own log file, which is turned over; what launchd writes is not."""
        return (f"--log-file={self.log}",)

    def write(self, plan: Plan) -> None:
        # launchd makes files, but no folders.
        self.output.parent.mkdir(parents=True, exist_ok=True)
        write_private(self.path, property_list(plan, self.output))

    def install(self, plan: Plan) -> int:
        # An older one, if there is one, still has the old list.
        run("launchctl", "bootout", self._target, quiet=True)
        self._wait_until_gone(plan.stop_seconds)
        return run("launchctl", "enable", self._target) or self._bootstrap()

    def uninstall(self) -> int:
        status = run("launchctl", "bootout", self._target)
        self.path.unlink(missing_ok=True)
        return 0 if status == NOT_LOADED else status

    def start(self) -> int:
        """Whether it was stopped or never loaded since the last login."""
        return run("launchctl", "kickstart", self._target, quiet=True) and self._bootstrap()

    def stop(self) -> int:
        """Its graceful end has status 0, after which launchd leaves it alone."""
        return run("launchctl", "kill", "SIGTERM", self._target)

    def status(self) -> int:
        return run("launchctl", "print", self._target)

    def logs(self, *, follow: bool) -> int:
        return run("tail", "-n", "200", *(["-F"] if follow else []), str(self.output), str(self.log))

    def _wait_until_gone(self, seconds: float) -> None:
        """While a service drains, launchd takes no other of its name (5, Input/output error).

        The status of `bootout` does not tell: for one that takes a while to end it is an error, too (36).
        """
        deadline = self._clock() + seconds
        while run("launchctl", "print", self._target, quiet=True) == 0 and self._clock() < deadline:
            self._sleep(POLL_SECONDS)

    def _bootstrap(self) -> int:
        return run("launchctl", "bootstrap", self._domain, str(self.path))
