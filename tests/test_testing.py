"""`check_policy` itself: good policies pass, and each way to break the contract is found and named."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ollama.app import create_app
from mlx_ollama.doors import DECODERS, DOORS, last_words_of, refuse_of
from mlx_ollama.errors import InvalidRequest, MlxOllamaError
from mlx_ollama.peers import Peers
from mlx_ollama.policies.access_log import AccessLog
from mlx_ollama.policies.canonical import Canonical
from mlx_ollama.policies.concurrency import Concurrency, Slots
from mlx_ollama.policies.deadline import Deadline
from mlx_ollama.policies.decode import Decode
from mlx_ollama.policies.disconnect import CancelOnDisconnect
from mlx_ollama.policies.drain import Drain, InFlight
from mlx_ollama.policies.errors import Errors
from mlx_ollama.policies.fallback import Fallback
from mlx_ollama.policies.ignored import IgnoredOptions
from mlx_ollama.policies.in_flight import Crowd, InFlightCap
from mlx_ollama.policies.keys import Keys
from mlx_ollama.policies.measure import Measure
from mlx_ollama.policies.merge import MergedLists
from mlx_ollama.policies.origin import Origin
from mlx_ollama.policies.rate_limit import RateLimit, Rates
from mlx_ollama.policies.shortage import Shortage
from mlx_ollama.policies.slow_readers import SlowReaders
from mlx_ollama.settings import Settings
from mlx_ollama.store_routes import UPLOADS
from mlx_ollama.testing import PolicyBroken, check_policy
from mlx_ollama.testing.trial import CROWD
from mlx_ollama.upstream import Upstream

NOWHERE = "http://127.0.0.1:9"


def _slots(queue: int = 0) -> Slots:
    return Slots(2, queue=queue, patience=60.0, message="full: {most}")


class _Figures:
    def request(self, endpoint: str | None, outcome: str, error: BaseException | None) -> None:
        assert outcome


SHIPPED: dict[str, Callable[[], None]] = {
    "AccessLog": lambda: check_policy(AccessLog),
    "Origin": lambda: check_policy(Origin, origins=(), bind_host="127.0.0.1", allow_of=lambda path: "GET"),
    "Measure": lambda: check_policy(Measure, figures=_Figures(), endpoint_of=lambda path: path),
    "Shortage": lambda: check_policy(Shortage, alarm=lambda cause: None),
    "Canonical": lambda: check_policy(Canonical, enabled=True),
    "Errors": lambda: check_policy(Errors, refuse_of=refuse_of),
    "Keys": lambda: check_policy(Keys, keys=("k",), headers={"x-api-key": "k"}),
    "Decode": lambda: check_policy(Decode, decoders=DECODERS, max_body=1 << 20, timeout=1.0),
    "Drain": lambda: check_policy(Drain, in_flight=InFlight()),
    "CancelOnDisconnect": lambda: check_policy(CancelOnDisconnect, uploads=UPLOADS),
    "MergedLists": lambda: check_policy(MergedLists, upstream=None),
    "Fallback": lambda: check_policy(Fallback, upstream=None, last_words_of=last_words_of),
    "SlowReaders": lambda: check_policy(SlowReaders, seconds=10.0, hang_up=lambda client: None),
    "InFlightCap": lambda: check_policy(lambda app: InFlightCap(app, crowd=Crowd(_slots()), paths=DOORS)),
    "RateLimit": lambda: check_policy(lambda app: RateLimit(app, rates=Rates(20, 60.0), peers=Peers(()))),
    "Deadline": lambda: check_policy(Deadline, seconds=60.0),
    "Concurrency": lambda: check_policy(lambda app: Concurrency(app, slots=_slots())),
    "Concurrency, queue": lambda: check_policy(lambda app: Concurrency(app, slots=_slots(queue=3))),
    "IgnoredOptions": lambda: check_policy(IgnoredOptions, strict=True),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_keeps_the_contract(name: str) -> None:
    SHIPPED[name]()


def test_what_refuses_everything_is_not_proven() -> None:
    with pytest.raises(PolicyBroken, match="lets no request in"):
        check_policy(Keys, keys=("k",))


def test_a_policy_with_an_upstream_that_is_down() -> None:
    check_policy(lambda app: Fallback(app, upstream=Upstream(NOWHERE), last_words_of=last_words_of))
    check_policy(lambda app: MergedLists(app, upstream=Upstream(NOWHERE)))


def test_every_policy_of_the_list_is_here(tmp_path: Path) -> None:
    stack = create_app(Settings(home=tmp_path)).user_middleware
    assert {getattr(middleware.cls, "__name__", "") for middleware in stack} == {
        name.partition(",")[0] for name in SHIPPED
    }


class _Policy:
    """Passes everything; the base of what is broken."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class _Refusing(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raise InvalidRequest("no")
        await self.app(scope, receive, send)


class _OnlyRequests(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["headers"] is not None
        await self.app(scope, receive, send)


class _DeafToLifespan(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)


class _RewritesPath(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "path": "/else"}, receive, send)


class _LosesCall(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "state": {}}, receive, send)


class _ReadsFiles(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "call" not in scope["state"]:
            await receive()
        await self.app(scope, receive, send)


class _Shouts(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def shout(message: Message) -> None:
            await send({**message, "body": message["body"].upper()} if "body" in message else message)

        await self.app(scope, receive, shout)


class _TakesHeaders(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def bare(message: Message) -> None:
            await send({**message, "headers": []} if "headers" in message else message)

        await self.app(scope, receive, bare)


class _Collects(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept: list[Message] = []

        async def keep(message: Message) -> None:
            kept.append(message)

        await self.app(scope, receive, keep)
        for message in kept:
            await send(message)


class _StartsTwice(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def twice(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                await send(message)

        await self.app(scope, receive, twice)


class _EndsTwice(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        if scope["type"] == "http":
            await send({"type": "http.response.body", "body": b""})


class _Limited(_Policy):
    """Two at once; how it is broken is for its heirs."""

    def refuse(self) -> Exception:
        return InvalidRequest("too many")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.held >= 2:
            await self.full(scope, receive, send)
            return
        self.held += 1
        await self.hold(scope, receive, send)

    async def full(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise self.refuse()

    async def hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            self.held -= 1


class _ForeignError(_Limited):
    def refuse(self) -> Exception:
        return KeyError("limit")


class _AnswersItself(_Limited):
    async def full(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 429, "headers": []})
        await send({"type": "http.response.body", "body": b"busy"})


class _ReadsABit(_Limited):
    async def full(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"busy"})


class _SaysNothing(_Limited):
    async def full(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class _Hangs(_Limited):
    async def full(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()


class _LeaksAlways(_Limited):
    async def hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class _LeaksOnErrors(_Limited):
    async def hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        self.held -= 1


class _LeaksOnCancellation(_Limited):
    async def hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception:
            self.held -= 1
            raise
        self.held -= 1


class _LeaksOnHangUp(_Limited):
    async def hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except OSError:
            raise
        except BaseException:
            self.held -= 1
            raise
        self.held -= 1


class _RaisesLate(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        if scope["type"] == "http":
            raise InvalidRequest("too late")


class _Swallows(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(MlxOllamaError):
            await self.app(scope, receive, send)


class _Translates(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except MlxOllamaError as error:
            raise ValueError(str(error)) from error


class _DeafToCancellation(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await self.app(scope, receive, send)


class _Detached(_Policy):
    tasks: set[Any] = set()  # noqa: RUF012 - it is the fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.ensure_future(self.app(scope, receive, send))
        self.tasks.add(task)
        await asyncio.shield(task)


class _Watchman(_Policy):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.ensure_future(asyncio.Event().wait())
        _Detached.tasks.add(watch)
        await self.app(scope, receive, send)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (_OnlyRequests, "raises KeyError('headers') on a scope of type lifespan"),
        (_DeafToLifespan, "does not pass on a scope of type lifespan"),
        (_RewritesPath, "changes path of a request for /api/chat"),
        (_LosesCall, "changes state['call'] of a request for /api/chat"),
        (_ReadsFiles, "does not hand on the body of a file that is sent"),
        (_Shouts, "changes the answer to /api/tags"),
        (_TakesHeaders, "takes headers off the answer to /api/tags"),
        (_Collects, "holds pieces of a stream back"),
        (GZipMiddleware, "changes the answer to /api/tags: 200 b'\\x1f\\x8b"),
        (_StartsTwice, "sends http.response.start twice"),
        (_EndsTwice, "sends more after the end of an answer"),
        (_ForeignError, "raises KeyError('limit'): a refusal is an error of mlx_ollama.errors"),
        (_AnswersItself, "answers 429 by itself: raise an error"),
        (_AnswersItself, "does not get a refusal through while 3 MB of the body are unread"),
        (_ReadsABit, "does not get a refusal through while 3 MB of the body are unread"),
        (_SaysNothing, "neither answers a request nor passes it on nor raises an error"),
        (_LeaksAlways, f"that were answered: after {CROWD} of them it lets 0 in at once, not 2"),
        (_LeaksOnErrors, f"that failed inside: after {CROWD} of them it lets 0 in at once, not 2"),
        (_LeaksOnErrors, "holds something for requests that were cancelled"),
        (_LeaksOnCancellation, "holds something for requests that were cancelled"),
        (_LeaksOnHangUp, "holds something for requests whose client left in mid-answer"),
        (_RaisesLate, "raises InvalidRequest('too late') after it has begun to answer"),
        (_Swallows, "swallows an error from inside"),
        (_Translates, "makes ValueError('the engine gave up') of an error of ours"),
        (_DeafToCancellation, "swallows a cancellation"),
        (_Detached, "goes on inside with requests that were cancelled"),
        (_Watchman, "leaves a task behind for each request that were answered"),
        (_Refusing, "lets no request in"),
    ],
)
def test_what_breaks_the_contract_is_named(broken: Callable[..., Any], words: str) -> None:
    with pytest.raises(PolicyBroken) as caught:
        check_policy(broken)
    assert words in str(caught.value)


@pytest.mark.parametrize("sound", [_Policy, _Limited])
def test_what_is_sound_passes(sound: Callable[..., Any]) -> None:
    check_policy(sound)


def test_options_and_factories() -> None:
    def factory(app: ASGIApp, *, most: int) -> ASGIApp:
        async def policy(scope: Scope, receive: Receive, send: Send) -> None:
            assert most == 3
            await app(scope, receive, send)

        return policy

    check_policy(factory, most=3)
    with pytest.raises(TypeError):
        check_policy(factory, least=3)
