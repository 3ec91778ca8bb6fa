"""The rules of the layout, held by tests."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mlx_ollama"
HEAVY = ("mlx", "mlx_lm", "numpy", "transformers", "tokenizers", "gguf", "safetensors")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _importers(*names: str) -> set[str]:
    return {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for name in _imports(path)
        if name.split(".")[0] in names
    }


def test_only_workers_import_what_is_heavy() -> None:
    assert {path.split("/")[0] for path in _importers(*HEAVY)} == {"worker"}


def test_only_downloads_import_the_hub() -> None:
    assert {path.split("/")[0] for path in _importers("huggingface_hub")} == {"hub"}


def test_starlette_stays_at_the_door() -> None:
    rooms = {path.split("/")[0] for path in _importers("starlette")}
    assert rooms <= {"app.py", "routes.py", "store_routes.py", "policies", "status", "proxy.py"}


def test_hypercorn_is_known_by_the_server_alone() -> None:
    assert _importers("hypercorn") == {"server.py"}


def test_one_thread_of_a_worker_knows_mlx() -> None:
    """Its streams belong to the thread that made them: what runs on another is text and numbers, and starts here."""
    beside = {"inbox.py", "preparing.py", "tokenizer.py", "prompt.py", "jinja.py", "grammar.py", "format_schema.py"}
    threads = {
        path.name
        for path in (PACKAGE / "worker").rglob("*.py")
        if any(word in path.read_text() for word in ("Thread(", "ThreadPoolExecutor(", "to_thread"))
    }
    assert threads == {"inbox.py", "preparing.py", "grammar.py"}
    assert not {f"worker/{name}" for name in beside} & _importers("mlx", "mlx_lm")


def test_the_environment_is_read_in_two_places() -> None:
    """What is ours, and what other people's libraries read."""
    readers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(word in path.read_text() for word in ("os.environ", "getenv", "from os import"))
    }
    assert readers == {"settings.py", "environment.py"}


def test_dialects_do_not_know_each_other() -> None:
    """A dialect's name is what stands before `_`. Shared: the contract, and Go's and SSE's ways, which are nobody's."""
    dialects = PACKAGE / "dialects"
    siblings = {path.stem for path in dialects.glob("*.py")} - {"__init__", "answers", "gotypes", "v1types", "sse"}
    for name in siblings:
        known = {module.rpartition(".")[2] for module in _imports(dialects / f"{name}.py") if ".dialects." in module}
        assert {module.partition("_")[0] for module in known & siblings} <= {name.partition("_")[0]}


def test_the_worker_knows_nothing_of_http() -> None:
    gateway = {"starlette", "hypercorn", "httpx"}
    for path in (PACKAGE / "worker").rglob("*.py"):
        modules = set(_imports(path))
        assert not {module.split(".")[0] for module in modules} & gateway
        assert not [module for module in modules if module.startswith(("mlx_ollama.policies", "mlx_ollama.dialects"))]


@pytest.mark.parametrize("module", ["mlx_ollama.cli", "mlx_ollama.app", "mlx_ollama.server"])
def test_the_gateway_loads_no_mlx(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {(*HEAVY, 'huggingface_hub')!r} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_files_and_functions_stay_small() -> None:
    long_files, long_functions = [], []
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text()
        if source.count("\n") > 400:
            long_files.append(str(path))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno
                if length > 60:
                    long_functions.append(f"{path}:{node.name}")
    assert not long_files
    assert not long_functions
