"""The recordings and the tool that compares, as the tests use them."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

FIXTURES = Path(__file__).parents[2] / "compat_fixtures"


def cases(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]


def pending() -> set[str]:
    lines = (FIXTURES / "pending").read_text().splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def compare_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare", FIXTURES / "compare.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def differences(url: str, case: dict[str, Any]) -> list[str]:
    tool = compare_tool()
    found: list[str] = tool.check(case, *tool.call(url, case))
    return found
