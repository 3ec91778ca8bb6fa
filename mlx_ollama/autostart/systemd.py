"""A systemd user unit, and `systemctl --user`."""

from collections.abc import Sequence
from pathlib import Path

from mlx_ollama.autostart.effects import run, write_private
from mlx_ollama.autostart.plan import NAME, OPEN_FILES, Plan

UNIT = f"{NAME}.service"
BAD_USAGE = 2
"""The supervisor's status for settings that cannot be used; no restart mends them."""

RETRY_SECONDS = 60
"""Between two starts of a supervisor that gave up. It has tried itself; systemd need not hurry."""


def unit_text(plan: Plan) -> str:
    """The unit: restarted on failure only, and given more time to end than the drain takes (systemd.service(5))."""
    return f"""\
[Unit]
Description=mlx-ollama, an Ollama-compatible server on MLX
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={" ".join(quoted(word) for word in plan.command)}
Restart=on-failure
RestartSec={RETRY_SECONDS}
RestartPreventExitStatus={BAD_USAGE}
KillMode=mixed
TimeoutStopSec={plan.stop_seconds}
LimitNOFILE={OPEN_FILES}

[Install]
WantedBy=default.target
"""


def quoted(word: str) -> str:
    """A word of a command line as systemd reads it back unchanged: no specifier, no variable, no escape.

    Raises:
        ValueError: for a word with a line end, which a unit cannot hold.
    """
    if "\n" in word or "\r" in word:
        raise ValueError(f"a line end in {word!r}")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


class Systemd:
    """The service under the user's own systemd. `home` is the user's home folder."""

    tool = "systemctl"
    advice = "It runs while you are logged in; `loginctl enable-linger` keeps it running after that."

    def __init__(self, home: Path) -> None:
        self.path = home / ".config" / "systemd" / "user" / UNIT

    def flags(self) -> Sequence[str]:
        """Standard error goes to the journal, which does the rest."""
        return ()

    def write(self, plan: Plan) -> None:
        write_private(self.path, unit_text(plan).encode())

    def install(self, plan: Plan) -> int:
        # One that runs already has the old unit.
        return _systemctl("daemon-reload") or _systemctl("enable", UNIT) or _systemctl("restart", UNIT)

    def uninstall(self) -> int:
        status = _systemctl("disable", "--now", UNIT)
        self.path.unlink(missing_ok=True)
        return _systemctl("daemon-reload") or status

    def start(self) -> int:
        return _systemctl("start", UNIT)

    def stop(self) -> int:
        return _systemctl("stop", UNIT)

    def status(self) -> int:
        return _systemctl("status", "--no-pager", UNIT)

    def logs(self, *, follow: bool) -> int:
        more = ("--follow",) if follow else ()
        return run("journalctl", "--user", "--unit", UNIT, "--no-pager", "--lines", "200", *more)


def _systemctl(*arguments: str) -> int:
    return run("systemctl", "--user", *arguments)
