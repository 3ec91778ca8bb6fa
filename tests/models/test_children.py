"""What is read of a child: its lines of JSON, whatever else it and the libraries in it say."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlx_ollama.models.children import ChildFailed, lines_of

FLOOD = 1 << 20
"""More than any pipe holds."""


def _told_by(folder: Path, program: str) -> Iterator[Mapping[str, Any]]:
    (folder / "some_child.py").write_text(program)
    return lines_of("some_child", env={**os.environ, "PYTHONPATH": str(folder)})


def test_lines_that_are_none_of_ours_are_passed_over(tmp_path: Path) -> None:
    program = """
import sys
sys.stdout.buffer.write(b'[WARNING] \\xff of a library\\n\\n[1, 2]\\n"error"\\n7\\n{"status": "reading"}\\n{"half')
"""
    assert list(_told_by(tmp_path, program)) == [{"status": "reading"}]


def test_a_child_may_complain_at_length_before_it_tells_anything(tmp_path: Path) -> None:
    program = f"""
import sys
sys.stderr.write("complaint " * {FLOOD // 10})
print('{{"status": "reading"}}', flush=True)
sys.stderr.write("\\n 50%\\rat last, \xe9")
sys.exit(3)
"""
    told = _told_by(tmp_path, program)
    assert next(told) == {"status": "reading"}
    with pytest.raises(ChildFailed, match=r"^at last, \xe9$"):
        next(told)


def test_a_child_that_ends_in_silence(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"^exit status 3$"):
        list(_told_by(tmp_path, "raise SystemExit(3)"))


def test_a_reason_goes_before_a_complaint(tmp_path: Path) -> None:
    program = """
import sys
print('{"error": "no room"}', flush=True)
sys.exit("a complaint")
"""
    with pytest.raises(ChildFailed, match=r"^no room$") as caught:
        list(_told_by(tmp_path, program))
    assert caught.value.told == {"error": "no room"}
