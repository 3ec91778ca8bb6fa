"""Policies of the user's own: found, checked, put in order, and in force."""

import asyncio
import json
import shutil
import sys
import textwrap
from pathlib import Path

import httpx
import pytest
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.app import create_app
from mlx_ollama.policies.errors import Errors
from mlx_ollama.policies.keys import Keys
from mlx_ollama.policies.merge import MergedLists
from mlx_ollama.policies.plugins import OwnPolicy, with_own
from mlx_ollama.policy import Policy
from mlx_ollama.settings import Settings, SettingsError, describe, load
from mlx_ollama.testing import check_policy
from tests.support.cli import import_model
from tests.support.server import run_cli, serving

EXAMPLES = Path(__file__).parents[1] / "examples"
README = Path(__file__).parents[2] / "README.md"
LONG = {"model": "tiny", "messages": [{"role": "user", "content": "ba"}] * 3, "options": {"num_predict": 1}}
IN_FILE = '[[policies]]\nuse = "long_talks:LongTalks"\nmost = 2\n'


class Plain:
    def __init__(self, app: ASGIApp, *, most: int = 1) -> None:
        self.app = app
        if most < 1:
            raise ValueError("most must be above 0")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Other(Plain):
    pass


class NotAsync:
    def __init__(self, app: ASGIApp) -> None: ...

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


HERE = f"{__name__}:Plain"


@pytest.mark.parametrize("example", [(EXAMPLES / "long_talks.py").read_text(), IN_FILE])
def test_the_readme_has_the_example(example: str) -> None:
    assert textwrap.indent(example, "    ") in README.read_text()


def test_a_policy_of_the_file_is_in_force(
    tmp_path: Path, tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    import_model(home, "tiny", tiny_directory)
    shutil.copy(EXAMPLES / "long_talks.py", home)
    (home / "config.toml").write_text(IN_FILE)
    with serving(home) as server:
        refused = server.post("/api/chat", LONG)
        assert (refused.status_code, refused.json()) == (400, {"error": "a chat of 3 messages: 2 are the most here"})
        told = server.post("/v1/chat/completions", LONG).json()["error"]
        assert (told["type"], told["message"]) == ("invalid_request_error", "a chat of 3 messages: 2 are the most here")
        assert server.post("/api/chat", {**LONG, "messages": LONG["messages"][:2]}).status_code == 200  # type: ignore[index]
    monkeypatch.syspath_prepend(EXAMPLES)
    from long_talks import LongTalks  # type: ignore[import-not-found]  # noqa: PLC0415 - it lies where users have it

    check_policy(LongTalks, most=2)


def test_a_policy_that_refuses_before_the_body_is_read(tmp_path: Path) -> None:
    (tmp_path / "closed.py").write_text(
        "from mlx_ollama.errors import InvalidRequest\n"
        "class Closed:\n"
        "    def __init__(self, app): self.app = app\n"
        "    async def __call__(self, scope, receive, send):\n"
        "        if scope['type'] == 'http' and scope['path'] == '/api/chat': raise InvalidRequest('closed')\n"
        "        await self.app(scope, receive, send)\n"
    )
    (tmp_path / "config.toml").write_text('[[policies]]\nuse = "closed:Closed"\nbefore = "Decode"\n')
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 3_000_000}]}).encode()
    with serving(tmp_path) as server:
        for _ in range(3):
            assert server.client.post("/api/chat", content=body).json() == {"error": "closed"}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ('[[policies]]\nuse = "nowhere:Class"\n', "policies[0] (nowhere:Class): nowhere cannot be imported"),
        ('[[policies]]\nuse = "broken:Class"\n', "broken cannot be imported: ZeroDivisionError: division by zero"),
        ('[[policies]]\nuse = "long_talks:Gone"\n', "policies[0] (long_talks:Gone): long_talks has no class Gone"),
        ('[[policies]]\nuse = "long_talks"\n', "a policy is named as package.module:Class"),
        (IN_FILE + IN_FILE.replace("most", "least"), "policies[1] (long_talks:LongTalks): "),
        (IN_FILE.replace("most", "least"), "its options are: most"),
        (IN_FILE + 'before = "Nobody"\n', "there is no policy 'Nobody' to stand next to; there are AccessLog, "),
        (IN_FILE + 'before = "Keys"\nafter = "Decode"\n', "it cannot stand after Decode and before Keys"),
        (IN_FILE + 'before = "Origin"\n', "it must stand after Errors"),
        (IN_FILE + "before = 3\n", "policies[0]: before = 3 is not a name"),
        ("[[policies]]\nmost = 3\n", 'policies[0]: a policy needs use = "package.module:Class"'),
        ("policies = 3\n", "not a list of tables: write [[policies]]"),
        ("[policies]\nmost = 3\n", "not a list of tables: write [[policies]]"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, words: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copy(EXAMPLES / "long_talks.py", tmp_path)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "config.toml").write_text(file)
    with pytest.raises(SettingsError) as caught:
        create_app(load({"home": str(tmp_path)}, {}).settings)
    assert words in str(caught.value)


def test_what_is_wrong_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[[policies]]\nuse = "nowhere:Class"\n')
    stopped = run_cli("serve", "--port", "0", "--home", str(tmp_path))
    assert stopped.returncode == 2
    assert stopped.stderr.startswith("Error: policies[0] (nowhere:Class): nowhere cannot be imported")
    assert "serves" not in stopped.stdout


def _names(own: list[OwnPolicy]) -> list[str]:
    built_in = [
        Middleware(Errors, refuse_of=None),  # type: ignore[arg-type]
        Middleware(Keys, keys=()),
        Middleware(MergedLists, upstream=None),
    ]
    return [
        getattr(middleware.cls, "__name__", "") for middleware in with_own(built_in, own, usually_before="MergedLists")
    ]


@pytest.mark.parametrize(
    ("own", "names"),
    [
        ([], ["Errors", "Keys", "MergedLists"]),
        ([Plain, Other], ["Errors", "Keys", "Plain", "Other", "MergedLists"]),
        ([HERE], ["Errors", "Keys", "Plain", "MergedLists"]),
        (
            [Policy(Plain, before="Keys"), Policy(Other, before="Keys")],
            ["Errors", "Plain", "Other", "Keys", "MergedLists"],
        ),
        (
            [Policy(Plain, after="Keys"), Policy(Other, after="Keys")],
            ["Errors", "Keys", "Plain", "Other", "MergedLists"],
        ),
        ([Policy(Plain, after="MergedLists"), Other], ["Errors", "Keys", "Other", "MergedLists", "Plain"]),
        ([Plain, Policy(Other, before="Plain")], ["Errors", "Keys", "Other", "Plain", "MergedLists"]),
        ([Policy(Plain, after="Errors", before="MergedLists")], ["Errors", "Keys", "Plain", "MergedLists"]),
    ],
)
def test_places(own: list[OwnPolicy], names: list[str]) -> None:
    assert _names(own) == names


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (
            [Plain, Policy(Plain, {"most": 0})],
            "policies[1] (Plain): it cannot be made: ValueError: most must be above 0",
        ),
        ([NotAsync], "policies[0] (NotAsync): what it makes is no ASGI application"),
        (
            [Policy(Plain, {"least": 1})],
            "policies[0] (Plain): got an unexpected keyword argument 'least'; its options are: most",
        ),
        ([3], "policies[0] (3): neither a class nor a name of one"),
        ([Policy(Plain, before="Other"), Other], "there is no policy 'Other'"),
    ],
)
def test_an_application_with_wrong_policies_is_not_made(tmp_path: Path, own: list[OwnPolicy], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        create_app(Settings(home=tmp_path), policies=own)
    assert words in str(caught.value)


def test_an_application_with_policies_of_its_own(tmp_path: Path) -> None:
    seen = []

    class Watching(Plain):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append((scope["path"], getattr(scope["state"].get("call"), "model", None)))
            await self.app(scope, receive, send)

    async def ask() -> int:
        transport = httpx.ASGITransport(create_app(Settings(home=tmp_path), policies=[Watching]))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:1") as client:
            return (await client.post("/api/chat", json={"model": "m"})).status_code

    assert asyncio.run(ask()) == 404
    assert seen == [("/api/chat", "m")]


def test_an_application_is_set_as_the_command_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text('[[policies]]\nuse = "nowhere:Class"\n')
    monkeypatch.setenv("MLX_API_HOME", str(tmp_path))
    with pytest.raises(SettingsError, match="nowhere cannot be imported"):
        create_app()


def test_policies_are_a_setting_like_others(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(IN_FILE)
    loaded = load({"home": str(tmp_path)}, {})
    assert loaded.settings.policies == (Policy("long_talks:LongTalks", {"most": 2}),)
    assert not loaded.warnings
    rows = {variable: (value, origin) for variable, value, _, origin in describe(loaded)}
    assert rows["MLX_API_POLICIES"] == ("long_talks:LongTalks", str(tmp_path / "config.toml"))
    settings = load({"home": str(tmp_path)}, {"MLX_API_POLICIES": "a:B, c.d:E"}).settings
    assert settings.policies == (Policy("a:B"), Policy("c.d:E"))


def test_the_home_is_looked_in_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    create_app(Settings(home=tmp_path))
    assert str(tmp_path) not in sys.path
    create_app(Settings(home=tmp_path, policies=(Policy(Plain),)))
    assert sys.path[-1] == str(tmp_path)
