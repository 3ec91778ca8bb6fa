"""`mlx-ollama service`: what the platform is told, read back by its own parser, and all but its last call for real."""

import json
import os
import plistlib
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.autostart.launchd import LABEL, NOT_LOADED, POLL_SECONDS, Launchd, property_list
from mlx_ollama.autostart.plan import Plan
from mlx_ollama.autostart.systemd import quoted, unit_text
from mlx_ollama.settings import Settings
from tests.support.server import run_cli

COMMAND = ("/opt/a python", "-m", "mlx_ollama", "supervise", '--home=/data/50% "off" $HOME \\ x', "--port=11500")


def _plan(**settings: Any) -> Plan:
    return Plan.of(COMMAND[0], COMMAND[4:], Settings(**settings))


def test_a_plan_is_a_supervised_server_that_may_drain() -> None:
    assert tuple(_plan().command) == COMMAND
    # The drain budget, what the supervisor adds for the gateway and for its last event, and what the platform adds.
    assert _plan().stop_seconds == 30 + 10 + 10 + 5
    assert _plan(drain=600, supervise_stop=5, supervise_hook_timeout=0.5).stop_seconds == 611


def test_the_property_list() -> None:
    listed = plistlib.loads(property_list(_plan(), Path("/Users/ann/Library/Logs/mlx-ollama/output.log")))
    assert listed == {
        "Label": "local.mlx-ollama",
        "ProgramArguments": list(COMMAND),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ProcessType": "Interactive",
        "ExitTimeOut": 55,
        "SoftResourceLimits": {"NumberOfFiles": 10240},
        "HardResourceLimits": {"NumberOfFiles": 10240},
        "StandardOutPath": "/Users/ann/Library/Logs/mlx-ollama/output.log",
        "StandardErrorPath": "/Users/ann/Library/Logs/mlx-ollama/output.log",
    }


@pytest.mark.skipif(not shutil.which("plutil"), reason="plutil is macOS's")
def test_macos_reads_the_property_list(tmp_path: Path) -> None:
    file = tmp_path / "x.plist"
    file.write_bytes(property_list(_plan(), tmp_path / "output.log"))
    subprocess.run(["plutil", "-lint", str(file)], check=True)


def test_the_unit() -> None:
    text = unit_text(_plan())
    lines = text.splitlines()
    program = '"/opt/a python" "-m" "mlx_ollama" "supervise"'
    assert rf'ExecStart={program} "--home=/data/50%% \"off\" $$HOME \\ x" "--port=11500"' in lines
    assert {
        *("Restart=on-failure", "RestartPreventExitStatus=2", "TimeoutStopSec=55", "LimitNOFILE=10240"),
        *("KillMode=mixed", "WantedBy=default.target"),
    } <= set(lines)
    assert "Environment" not in text


def test_a_line_end_is_refused() -> None:
    with pytest.raises(ValueError, match="a line end"):
        quoted("/x\n[Service]")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "mlx-ollama.service"
    file.write_text(unit_text(Plan.of(sys.executable, COMMAND[4:], Settings())))
    assert "mlx-ollama.service" not in (told := _verified(file)), told
    # The parser does complain where there is something wrong.
    file.write_text(unit_text(_plan()).replace("KillMode=mixed", "KillMode=perhaps"))
    told = _verified(file)
    assert "Failed to parse kill mode" in told
    assert "Command /opt/a python is not executable" in told


def _verified(unit: Path) -> str:
    """What systemd's own parser has to complain about."""
    command = ["systemd-analyze", "--user", "verify", "--man=no", str(unit)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(unit.parent)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stderr


class Machine:
    """A home folder, and a PATH on which the platform's command only notes how it was called.

    It ends with `status`, or, where `will_end` says so for its next calls with a word, as that tells.
    """

    def __init__(self, folder: Path, *commands: str, status: int = 0) -> None:
        self.home, self.bin, self.notes = folder / "home", folder / "bin", folder / "notes"
        self._endings = folder / "endings"
        self.will_end()
        self.home.mkdir()
        self.bin.mkdir()
        for name in commands:
            program = self.bin / name
            code = (
                "import json, sys\n"
                f"open({str(self.notes)!r}, 'a').write(json.dumps([{name!r}, *sys.argv[1:]]) + '\\n')\n"
                f"endings = json.load(open({str(self._endings)!r}))\n"
                f"status = (endings.get(sys.argv[1]) or [{status}]).pop(0)\n"
                f"json.dump(endings, open({str(self._endings)!r}, 'w'))\n"
                "sys.exit(status)\n"
            )
            # The kernel would take the first line of a script to end at a space in the path of Python.
            program.write_text(f'#!/bin/sh\nexec {shlex.join((sys.executable, "-c", code))} "$@"\n')
            program.chmod(0o755)
        self.env = {"HOME": str(self.home), "PATH": f"{self.bin}:{os.environ['PATH']}"}

    def will_end(self, **statuses: Sequence[int]) -> None:
        self._endings.write_text(json.dumps(statuses))

    def calls(self) -> list[Sequence[str]]:
        if not self.notes.exists():
            return []
        called = [json.loads(line) for line in self.notes.read_text().splitlines()]
        self.notes.unlink()
        return called


linux = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")


@linux
def test_a_service_from_install_to_uninstall(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "systemctl", "journalctl")
    unit = machine.home / ".config/systemd/user/mlx-ollama.service"
    secret = {"MLX_API_SUPERVISE_WEBHOOK": "https://example.org/secret-token", "MLX_API_HOME": str(tmp_path / "models")}
    made = run_cli("service", "install", "--port", "11500", "--drain", "1m", env=machine.env | secret)
    assert made.returncode == 0, made.stderr
    assert machine.calls() == [
        ["systemctl", "--user", "daemon-reload"],
        ["systemctl", "--user", "enable", "mlx-ollama.service"],
        ["systemctl", "--user", "restart", "mlx-ollama.service"],
    ]
    text = unit.read_text()
    assert f'"supervise" "--home={tmp_path}/models" "--port=11500" "--drain=1m"' in text
    assert "TimeoutStopSec=85" in text
    assert stat.S_IMODE(unit.stat().st_mode) == 0o600
    assert "secret-token" not in text + made.stdout + made.stderr
    assert "MLX_API_HOME, MLX_API_SUPERVISE_WEBHOOK" in made.stderr
    assert f"{tmp_path}/models/config.toml" in made.stderr

    for action, *words in (("start",), ("stop",), ("status", "--no-pager")):
        assert run_cli("service", action, env=machine.env).returncode == 0
        assert machine.calls() == [["systemctl", "--user", action, *words, "mlx-ollama.service"]]
    assert run_cli("service", "logs", "-f", env=machine.env).returncode == 0
    ((program, *words),) = machine.calls()
    assert program == "journalctl"
    assert {"--user", "--unit", "mlx-ollama.service", "--follow"} <= set(words)

    assert run_cli("service", "uninstall", env=machine.env).returncode == 0
    assert machine.calls()[0] == ["systemctl", "--user", "disable", "--now", "mlx-ollama.service"]
    assert not unit.exists()
    again = run_cli("service", "start", env=machine.env)
    assert (again.returncode, machine.calls()) == (1, [])
    assert "not installed" in again.stderr


@linux
def test_a_platform_that_fails_is_a_failure(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "systemctl", status=4)
    made = run_cli("service", "install", env=machine.env)
    assert made.returncode == 4
    assert "is installed and started" not in made.stdout


@linux
def test_a_machine_without_systemd_is_told_so(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    made = run_cli("service", "install", env=machine.env | {"PATH": str(tmp_path)})
    assert made.returncode == 1
    assert made.stderr.startswith("Error: there is no systemctl here")
    assert not list(machine.home.iterdir())


@linux
def test_settings_that_cannot_be_used_are_not_installed(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "systemctl")
    assert run_cli("service", "install", "--port", "70000", env=machine.env).returncode == 2
    assert machine.calls() == []
    assert not (machine.home / ".config").exists()


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path, "launchctl", "tail")
    monkeypatch.setenv("PATH", machine.env["PATH"])
    return machine


GONE = 113
"""What `launchctl print` returns for a service that is not there."""

DOMAIN = f"gui/{os.getuid()}"
TARGET = f"{DOMAIN}/{LABEL}"


def test_launchd_from_install_to_uninstall(mac: Machine) -> None:
    launchd = Launchd(mac.home)
    log = mac.home / "Library/Logs/mlx-ollama/mlx-ollama.log"
    assert launchd.flags() == (f"--log-file={log}",)
    plan = Plan.of(sys.executable, launchd.flags(), Settings())
    launchd.write(plan)
    assert log.parent.is_dir()
    assert stat.S_IMODE(launchd.path.stat().st_mode) == 0o600
    assert launchd.path == mac.home / "Library/LaunchAgents/local.mlx-ollama.plist"
    mac.will_end(bootout=[NOT_LOADED], print=[GONE])
    assert launchd.install(plan) == 0
    assert mac.calls() == [
        ["launchctl", "bootout", TARGET],
        ["launchctl", "print", TARGET],
        ["launchctl", "enable", TARGET],
        ["launchctl", "bootstrap", DOMAIN, str(launchd.path)],
    ]
    assert [launchd.start(), launchd.stop(), launchd.status(), launchd.logs(follow=True)] == [0] * 4
    assert mac.calls() == [
        ["launchctl", "kickstart", TARGET],
        ["launchctl", "kill", "SIGTERM", TARGET],
        ["launchctl", "print", TARGET],
        ["tail", "-n", "200", "-F", str(log.with_name("output.log")), str(log)],
    ]
    assert launchd.uninstall() == 0
    assert mac.calls() == [["launchctl", "bootout", TARGET]]
    assert not launchd.path.exists()


class Clock:
    """Nobody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("status", [0, 36], ids=["told that it ends", "told that it goes on ending"])
def test_launchd_is_given_the_new_list_when_the_old_service_has_ended(mac: Machine, status: int) -> None:
    clock = Clock()
    mac.will_end(bootout=[status], print=[0, 0, 0, GONE])
    assert Launchd(mac.home, lambda: clock.now, clock.sleep).install(_plan()) == 0
    called = [words[1] for words in mac.calls()]
    assert called == ["bootout", "print", "print", "print", "print", "enable", "bootstrap"]
    assert clock.now == 100 + 3 * POLL_SECONDS


def test_launchd_is_waited_for_no_longer_than_a_service_may_take_to_end(mac: Machine) -> None:
    clock = Clock()
    mac.will_end(bootstrap=[5])
    plan = Plan(COMMAND, stop_seconds=3)
    assert Launchd(mac.home, lambda: clock.now, clock.sleep).install(plan) == 5
    assert clock.now == 103
