"""Readings of this machine, of containers, and of a Mac's pressure."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlx_ollama.memory.cgroup import Group, groups
from mlx_ollama.memory.gauge import Reading, SystemGauge, from_pressure, system_gauge, tightest

MIB = 1 << 20


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def _membership(folder: Path, text: str) -> Path:
    file = folder / "membership"
    file.write_text(text)
    return file


def test_this_machine_can_be_read() -> None:
    gauge = system_gauge()
    assert gauge
    reading = gauge.read()
    assert 0 < reading.used < reading.total
    assert reading.available == reading.total - reading.used
    assert gauge.kills() >= 0


def test_without_psutil_there_is_no_gauge() -> None:
    program = (
        "import sys; sys.modules['psutil'] = None\n"
        "from mlx_ollama.memory.gauge import system_gauge; print(system_gauge())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert printed.stdout == "None\n"


def test_groups_of_version_2_up_to_the_root(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    _write(root, cgroup__controllers="memory")
    _write(root / "pod", memory__max="max\n", memory__current="9\n")
    _write(
        root / "pod" / "box",
        memory__max=f"{400 * MIB}\n",
        memory__current=f"{300 * MIB}\n",
        memory__stat=f"anon 1\nactive_file {60 * MIB}\ninactive_file {40 * MIB}\n",
        memory__events="low 0\noom 3\noom_kill 2\n",
    )
    assert groups(root, _membership(tmp_path, "0::/pod/box\n")) == [Group(400 * MIB, 200 * MIB, 2)]


def test_groups_of_version_1_from_inside_a_container(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    _write(
        root / "memory",
        memory__limit_in_bytes=f"{512 * MIB}",
        memory__usage_in_bytes=f"{500 * MIB}",
        memory__stat=f"total_active_file {MIB}\ntotal_inactive_file {99 * MIB}\ninactive_file 7\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    )
    lines = "5:cpuset:/x\n4:memory:/host/name/of/this\n0::/\n"
    assert groups(root, _membership(tmp_path, lines)) == [Group(512 * MIB, 400 * MIB, 1)]


@pytest.mark.parametrize("text", ["", "4:memory:/../../etc\n", "nonsense"])
def test_where_there_are_no_groups_there_is_no_limit(tmp_path: Path, text: str) -> None:
    assert groups(tmp_path / "none", _membership(tmp_path, text)) == []
    assert groups(tmp_path / "none", tmp_path / "nothing") == []


def test_the_fullest_counts_and_a_limit_above_the_machine_is_none() -> None:
    system = Reading(30, 100)
    assert tightest(system, []) == system
    assert tightest(system, [Group(1 << 62, 99, 0), Group(0, 5, 0)]) == system
    small, full = Reading(10, 50, "container"), Reading(18, 20, "container")
    reading = tightest(system, [Group(50, 10, 0), Group(20, 18, 0)])
    assert reading == Reading(18, 20, "container", (system, small))
    assert reading.every == (reading, system, small)
    assert (reading.percent, reading.available) == (full.percent, 2)


def test_a_macs_pressure_is_what_is_not_free() -> None:
    assert from_pressure(16_000, 37) == Reading(10_080, 16_000)
    assert from_pressure(16_000, 37).percent == 63.0
    assert (from_pressure(100, -1).percent, from_pressure(100, 101).percent) == (100.0, 0.0)


def test_kills_are_those_of_the_system_and_of_our_groups() -> None:
    gauge = SystemGauge(lambda: Reading(1, 2), lambda: 3, lambda: [Group(1, 1, 4), Group(1, 1, 5)])
    assert gauge.kills() == 12
    assert gauge.read().every[0].source == "container"
