"""The contract of a policy, scenario by scenario."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeAlias

from mlx_ollama.doors import refuse_of
from mlx_ollama.errors import GenerationFailed, MlxOllamaError
from mlx_ollama.policies.errors import Errors, status_of
from mlx_ollama.testing.client import (
    FILE,
    GENERATE,
    REQUESTS,
    App,
    Client,
    ClientGone,
    Receive,
    Scope,
    Send,
    request,
    upload,
)
from mlx_ollama.testing.inside import (
    ANSWER,
    HEADERS,
    Inside,
    answer,
    answer_for_ever,
    answer_when,
    failing,
    nothing,
    read,
    wait,
)

Make: TypeAlias = Callable[[App], App]

PATIENCE_SECONDS = 2.0
"""How long anything may take that should happen at once."""

STILL_TURNS = 50
"""Turns of the event loop in which nothing happens: requests have come to where they wait."""

CROWD = 40
"""Requests at a time, or one after the other: more than a limit in a test lets in."""

_OTHER_SCOPES: tuple[Scope, ...] = (
    {"type": "lifespan", "asgi": {"version": "3.0"}},
    {"type": "websocket", "asgi": {"version": "3.0"}, "path": "/", "headers": []},
)
_AS_IT_CAME = ("method", "path", "raw_path", "query_string", "headers", "client")
_OK, _LOWEST_REFUSAL, _TOO_MANY = 200, 400, 429


class PolicyBroken(AssertionError):
    """A policy breaks its contract; each of `faults` is one way in which it does."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("this policy " + "\nthis policy ".join(faults))
        self.faults = faults


def check_policy(make: Callable[..., Any], /, *, headers: Mapping[str, str] | None = None, **options: Any) -> None:
    """Prove a policy; `make(app, **options)` gives it, as an ASGI application around `app`.

    It must pass calls, files and answers through unchanged and piece by piece; raise none but errors of
    `mlx_ollama.errors`, and none after it has sent something; let go of what it holds for a request that fails, is
    cancelled or loses its client; get a refusal through while 3 MB of the body are unread; and never send a part of an
    answer twice.

    `headers` are what a request needs to be let in, such as a key. A limit has to be below 40 to be reached. Not to be
    called from a coroutine.

    Raises:
        PolicyBroken: with everything that was found.
    """
    trial = _Trial(lambda app: make(app, **options), headers or {})
    for scenario in trial.scenarios:
        asyncio.run(scenario())
    if trial.faults:
        raise PolicyBroken(list(dict.fromkeys(trial.faults)))


class _Trial:
    def __init__(self, make: Make, headers: Mapping[str, str]) -> None:
        self._make = make
        self._headers = headers
        # Who needs no headers is no stranger without them.
        self._callers = (headers, {}) if headers else ({},)
        self.faults: list[str] = []
        self.scenarios: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
            self._passes_other_scopes,
            self._passes_calls_through,
            self._hands_on_bodies,
            self._sends_piece_by_piece,
            self._refuses_with_our_errors,
            self._lets_errors_out,
            self._lets_go,
            self._hears_a_cancellation,
            self._refuses_with_the_body_unread,
        )

    async def _passes_other_scopes(self) -> None:
        for scope in _OTHER_SCOPES:
            inside, client = Inside(nothing), Client(dict(scope))
            await self._serve(client, self._make(inside))
            if client.error is not None:
                self._say(f"raises {client.error!r} on a scope of type {scope['type']}, which it has to pass on")
            elif not inside.scopes:
                self._say(f"does not pass on a scope of type {scope['type']}")

    async def _passes_calls_through(self) -> None:
        passed = 0
        for path in REQUESTS:
            inside, client = Inside(answer), request(path, self._headers)
            came = {**client.scope, "headers": list(client.scope["headers"]), "state": dict(client.scope["state"])}
            await self._serve(client, self._make(inside))
            if not inside.scopes or client.error is not None:
                self._judge(client)
                continue
            passed += "call" in came["state"]
            self._compare(path, came, inside.scopes[0])
            if (client.status, client.body) != (_OK, b"".join(ANSWER)) or not client.is_answered:
                self._say(f"changes the answer to {path}: {client.status} {client.body!r}")
            elif [header for header in client.sent[0]["headers"] if tuple(header) in HEADERS] != HEADERS:
                self._say(f"takes headers off the answer to {path}: {client.sent[0]['headers']}")
        if not passed:
            self._say("lets no request in: give options, or `headers`, with which one is")

    async def _hands_on_bodies(self) -> None:
        client = upload(self._headers)

        async def keep(scope: Scope, receive: Receive, send: Send) -> None:
            if await read(receive) != FILE:
                self._say("does not hand on the body of a file that is sent, which only those inside may read")
            await answer(scope, receive, send)

        await self._serve(client, self._make(Inside(keep)))

    async def _sends_piece_by_piece(self) -> None:
        client = request(GENERATE, self._headers)

        async def one_by_one(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": _OK, "headers": list(HEADERS)})
            for at, piece in enumerate(ANSWER):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if not await _soon(partial(_has, client, b"".join(ANSWER[: at + 1]))):
                    self._say("holds pieces of a stream back: each goes out when it comes")
                    break
            await send({"type": "http.response.body", "body": b""})

        await self._serve(client, self._make(Inside(one_by_one)))

    async def _refuses_with_our_errors(self) -> None:
        for headers in self._callers:
            clients, _ = await self._crowd([request(GENERATE, headers) for _ in range(CROWD)])
            for client in clients:
                self._judge(client)

    async def _lets_errors_out(self) -> None:
        for begins in (False, True):
            client = request(GENERATE, self._headers)
            inside = Inside(failing(lambda: GenerationFailed("the engine gave up"), begins=begins))
            await self._serve(client, self._make(inside))
            if not inside.scopes:
                continue
            if client.error is None and not client.is_answered:
                self._say("swallows an error from inside: its caller waits for the rest of an answer")
            elif client.error is not None and not isinstance(client.error, MlxOllamaError):
                self._say(f"makes {client.error!r} of an error of ours from inside")

    async def _lets_go(self) -> None:
        fresh, _ = await self._capacity(Inside(wait), None)
        for how, behave in _ROUNDS.items():
            inside = Inside(behave)
            policy = self._make(inside)
            tasks = len(asyncio.all_tasks())
            if not await self._rounds(policy, inside):
                continue
            if inside.busy:
                self._say(f"goes on inside with requests {how}")
            if len(asyncio.all_tasks()) - tasks >= CROWD:
                self._say(f"leaves a task behind for each request {how}")
            left, refusals = await self._capacity(inside, policy)
            # What is counted by time, and not by what is under way, need not be let go of.
            is_quota = any(isinstance(error, MlxOllamaError) and status_of(error) == _TOO_MANY for error in refusals)
            if left < fresh and not is_quota:
                self._say(
                    f"holds something for requests {how}: after {CROWD} of them it lets {left} in at once, not {fresh}"
                )

    async def _rounds(self, policy: App, inside: Inside) -> bool:
        """One request after the other; whether each came to an end."""
        for number in range(CROWD):
            if not await self._round(policy, inside, number):
                return False
        return True

    async def _round(self, policy: App, inside: Inside, number: int) -> bool:
        client = request(GENERATE, self._headers, number)
        client.leaves_after = 2 if inside.behave is answer_for_ever else None
        task = asyncio.ensure_future(client.ask(policy))
        if inside.behave is wait:
            await _soon(lambda: bool(inside.busy) or task.done())
            task.cancel()
        return await self._ended(task, GENERATE)

    async def _capacity(self, inside: Inside, policy: App | None) -> tuple[int, list[BaseException]]:
        """How many of a crowd from many addresses are let in at once, and what the others are told."""
        inside.behave = wait
        policy = policy or self._make(inside)
        clients = [request(GENERATE, self._headers, CROWD + number) for number in range(CROWD)]
        tasks = [asyncio.ensure_future(client.ask(policy)) for client in clients]
        await _settled(tasks, inside)
        count = inside.busy
        await _cancelled(tasks)
        return count, [client.error for client in clients if client.error is not None]

    async def _hears_a_cancellation(self) -> None:
        inside, client = Inside(wait), request(GENERATE, self._headers)
        task = asyncio.ensure_future(client.ask(self._make(inside)))
        await _soon(lambda: bool(inside.busy) or task.done())
        if not task.done():
            task.cancel()
            if await self._ended(task, GENERATE) and not task.cancelled() and client.error is None:
                self._say("swallows a cancellation: asyncio.CancelledError has to go on")

    async def _refuses_with_the_body_unread(self) -> None:
        for headers in self._callers:
            few = [request(GENERATE, headers, large=True) for _ in range(3)]
            clients, ended = await self._crowd([*(request(GENERATE, headers) for _ in range(CROWD)), *few], worded=True)
            if not all(has_ended for client, has_ended in zip(clients, ended, strict=True) if client.writing):
                self._say("does not get a refusal through while 3 MB of the body are unread: raise an error of ours")

    async def _crowd(self, clients: list[Client], *, worded: bool = False) -> tuple[list[Client], list[bool]]:
        """Let all ask at once, and answer none before all have; who came to an end is said beside them.

        `worded` is with `Errors` around the policy, which words refusals.
        """
        gate = asyncio.Event()
        inside = Inside(answer_when(gate))
        policy = self._make(inside)
        app: App = Errors(policy, refuse_of=refuse_of) if worded else policy
        tasks = [asyncio.ensure_future(client.ask(app)) for client in clients]
        await _settled(tasks, inside)
        gate.set()
        await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
        ended = [task.done() for task in tasks]
        await _cancelled(tasks)
        return clients, ended

    async def _serve(self, client: Client, app: App) -> None:
        await self._ended(asyncio.ensure_future(client.ask(app)), client.scope.get("path", client.scope["type"]))
        if misspoken := client.misspoken():
            self._say(misspoken)

    async def _ended(self, task: "asyncio.Task[None]", what: str) -> bool:
        await asyncio.wait((task,), timeout=PATIENCE_SECONDS)
        is_done = task.done()
        if not is_done:
            self._say(f"does not come to an end with a request for {what}")
            await _cancelled([task])
        return is_done

    def _compare(self, path: str, came: Scope, given: Scope) -> None:
        changed = [key for key in _AS_IT_CAME if given.get(key) != came[key]]
        if given.get("state", {}).get("call") != came["state"].get("call"):
            changed.append("state['call']")
        if changed:
            self._say(f"changes {', '.join(changed)} of a request for {path}")

    def _judge(self, client: Client) -> None:
        """Whether a client was answered, or refused as it is to be."""
        error = client.error
        if misspoken := client.misspoken():
            self._say(misspoken)
        if isinstance(error, MlxOllamaError):
            if client.sent:
                self._say(f"raises {error!r} after it has begun to answer")
        elif error is not None and not isinstance(error, ClientGone):
            self._say(f"raises {error!r}: a refusal is an error of mlx_ollama.errors")
        elif client.status is None:
            self._say("neither answers a request nor passes it on nor raises an error")
        elif client.status >= _LOWEST_REFUSAL:
            self._say(f"answers {client.status} by itself: raise an error, which is worded in each caller's dialect")

    def _say(self, fault: str) -> None:
        self.faults.append(fault)


_ROUNDS: Mapping[str, App] = {
    "that were answered": answer,
    "that failed inside": failing(lambda: GenerationFailed("the engine gave up")),
    "that failed inside in mid-answer": failing(lambda: GenerationFailed("the engine gave up"), begins=True),
    "that failed inside for a fault of ours": failing(lambda: RuntimeError("a fault")),
    "that were cancelled": wait,
    "whose client left in mid-answer": answer_for_ever,
}
"""How requests end, and what happens inside for them to end so."""


def _has(client: Client, body: bytes) -> bool:
    return client.body == body


async def _soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true, well within the patience that the whole request has."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        if loop.time() > began + PATIENCE_SECONDS / 4:
            return False
        await asyncio.sleep(0)
    return True


async def _settled(tasks: "list[asyncio.Task[None]]", inside: Inside) -> None:
    """Wait until no request gets any further."""
    still, last = 0, (0, 0)
    while still < STILL_TURNS:
        now = inside.busy, sum(task.done() for task in tasks)
        still, last = (still + 1 if now == last else 0), now
        await asyncio.sleep(0)


async def _cancelled(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
