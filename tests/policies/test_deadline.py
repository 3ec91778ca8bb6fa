"""The end of answers that take too long, and of clients that do not read or trickle; on a virtual clock."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlx_ollama.app import OVERLOADED
from mlx_ollama.dialects.ollama_answers import GenerateEncoder
from mlx_ollama.doors import DECODERS, DOORS, refuse_of
from mlx_ollama.policies.concurrency import Concurrency, Slots
from mlx_ollama.policies.deadline import Deadline
from mlx_ollama.policies.decode import Decode
from mlx_ollama.policies.disconnect import CancelOnDisconnect
from mlx_ollama.policies.errors import Errors
from mlx_ollama.policies.slow_readers import PIECE_BYTES, SlowReaders
from mlx_ollama.routes import EventStream
from mlx_ollama.settings import load
from mlx_ollama.store_routes import UPLOADS
from mlx_ollama.types import Delta, Event, Leased, Show
from tests.support.asgi import COMPLETION, Client, settle
from tests.support.clock import now, run


class Engine:
    """Says a word a minute, for ever; and when it was stopped."""

    def __init__(self, first_after: float) -> None:
        self.stopped_at = 0.0
        self._first_after = first_after

    async def events(self) -> AsyncGenerator[Event | Leased, None]:
        try:
            yield Leased()
            await asyncio.sleep(self._first_after)
            while True:
                yield Delta("a")
                await asyncio.sleep(60)
        finally:
            self.stopped_at = now()

    def app(self, seconds: float, answers: Any = None) -> ASGIApp:
        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            stream = EventStream(self.events(), answers or GenerateEncoder(COMPLETION), 0.0)
            await stream(scope, receive, send)

        return Errors(CancelOnDisconnect(Deadline(endpoint, seconds=seconds), uploads=UPLOADS), refuse_of=refuse_of)


def test_three_hundred_seconds_before_the_first_byte() -> None:
    async def main() -> None:
        engine, client = Engine(400.0), Client()
        began = now()
        await client.ask(engine.app(load({}, {}).settings.timeout))
        assert now() - began == engine.stopped_at - began == 300.0
        assert (client.status, client.error) == (504, "the answer took longer than 300 seconds (MLX_API_TIMEOUT)")
        assert client.headers["x-mlx-ollama-setting"] == "MLX_API_TIMEOUT"
        assert "retry-after" not in client.headers

    run(main())


def test_in_a_stream_the_last_line_says_so() -> None:
    async def main() -> None:
        engine, client = Engine(130.0), Client()
        began = now()
        await client.ask(engine.app(300.0))
        assert now() - began == engine.stopped_at - began == 300.0
        lines = client.body.splitlines()
        assert client.status == 200
        assert len(lines) == 4
        assert lines[-1] == b'{"error":"the answer took longer than 300 seconds (MLX_API_TIMEOUT)"}'
        assert not client.sent[-1].get("more_body")

    run(main())


def test_openais_streams_say_it_in_openais_words() -> None:
    async def main() -> None:
        door: Any = DOORS["/v1/chat/completions"]
        silent = Client("/v1/chat/completions")
        await silent.ask(Engine(400.0).app(300.0, door.answers(COMPLETION)))
        assert (silent.status, silent.error["type"]) == (504, "api_error")

    run(main())


def test_nought_is_for_ever_and_questions_have_no_deadline() -> None:
    async def main() -> None:
        endless, engine = Client(), Engine(4000.0)
        asked = endless.ask(engine.app(0.0))
        await asyncio.sleep(100_000)
        assert not asked.done()
        endless.leave()
        await asyncio.wait([asked])

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(400)
            await send({"type": "http.response.start", "status": 200, "headers": []})

        show = Client(call=Show(model="m"))
        await show.ask(Deadline(slow, seconds=300.0))
        assert show.status == 200

    run(main())


def test_waiting_for_a_turn_counts() -> None:
    async def main() -> None:
        slots = Slots(1, queue=1, patience=0, message=OVERLOADED["guarded"])

        async def endless(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(100_000)

        app = Errors(Deadline(Concurrency(endless, slots=slots), seconds=300.0), refuse_of=refuse_of)
        clients = [Client(), Client()]
        began = now()
        await asyncio.gather(*(client.ask(app) for client in clients))
        assert now() - began == 300.0
        assert [client.status for client in clients] == [504, 504]
        assert (slots.active, slots.waiting) == (0, 0)

    run(main())


class Deaf(Client):
    """Takes so many messages, and then nothing any more."""

    patience = 0

    async def take(self, message: Message) -> None:
        if len(self.sent) == self.patience:
            await asyncio.sleep(1_000_000)
        await super().take(message)


def test_whoever_takes_nothing_for_a_minute_is_hung_up_on() -> None:
    async def main() -> None:
        slots = Slots(1, queue=0, patience=0, message=OVERLOADED["guarded"])
        engine, deaf = Engine(0.0), Deaf()
        deaf.patience = 4
        cut: list[tuple[str, int]] = []

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            await EventStream(engine.events(), GenerateEncoder(COMPLETION), 5.0)(scope, receive, send)

        seconds = load({}, {}).settings.write_timeout
        inside = Errors(CancelOnDisconnect(Concurrency(endpoint, slots=slots), uploads=UPLOADS), refuse_of=refuse_of)
        began = now()
        asked = deaf.ask(SlowReaders(inside, seconds=seconds, hang_up=cut.append))
        await asyncio.sleep(59)
        assert slots.active == 1
        deaf_since = 15.0
        await asyncio.sleep(deaf_since + 1)
        await settle()
        # A heartbeat was stuck; the answer itself had nothing to say yet.
        assert cut == [("10.0.0.1", 1234)]
        deaf.leave()
        await settle()
        assert (slots.active, engine.stopped_at) == (0, now())
        await asyncio.wait([asked])
        assert now() - began == 59 + deaf_since + 1

    run(main())


def test_a_whole_answer_is_sent_in_pieces_that_have_a_minute_each() -> None:
    async def main() -> None:
        class Leisurely(Client):
            async def take(self, message: Message) -> None:
                await asyncio.sleep(50)
                await super().take(message)

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x" * (3 * PIECE_BYTES + 1)})

        client = Leisurely()
        await client.ask(SlowReaders(endpoint, seconds=60.0, hang_up=lambda _: None))
        bodies = client.sent[1:]
        assert [len(message["body"]) for message in bodies] == [PIECE_BYTES] * 3 + [1]
        assert [message["more_body"] for message in bodies] == [True, True, True, False]

    run(main())


def test_our_own_timeouts_stay_faults() -> None:
    async def main() -> None:
        async def broken(message: Message) -> None:
            raise TimeoutError("of something else")

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})

        policy = SlowReaders(endpoint, seconds=60.0, hang_up=lambda _: None)
        client = Client()
        client.take = broken  # type: ignore[method-assign]
        with pytest.raises(TimeoutError, match="of something else"):
            await client.ask(policy)

        async def failing(scope: Scope, receive: Receive, send: Send) -> None:
            raise TimeoutError("of something else")

        with pytest.raises(TimeoutError, match="of something else"):
            await Client().ask(Deadline(failing, seconds=300.0))

    run(main())


def _read(timeout: float = 60.0, max_body: int = 1 << 21) -> ASGIApp:
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return Errors(Decode(endpoint, decoders=DECODERS, max_body=max_body, timeout=timeout), refuse_of=refuse_of)


def test_a_body_that_trickles_ends() -> None:
    async def main() -> None:
        client = Client(call=None)
        began = now()
        asked = client.ask(_read(load({}, {}).settings.body_timeout))
        for _ in range(4):
            client.sends(b" ", more=True)
            await asyncio.sleep(29)
        await asked
        assert (client.status, client.error) == (408, "the request body came at less than 8192 bytes a second")
        assert client.headers["x-mlx-ollama-setting"] == "MLX_API_BODY_TIMEOUT"
        # One second is for the rest of the body.
        assert 60 < now() - began < 4 * 29 + 1

    run(main())


@pytest.mark.parametrize(("rate", "status"), [(9000, 200), (4000, 408)])
def test_a_large_body_has_the_more_time(rate: int, status: int) -> None:
    async def main() -> None:
        client = Client(call=None)
        asked = client.ask(_read())
        client.sends(b'{"model":"m","prompt":"', more=True)
        for _ in range(60):
            await asyncio.sleep(2)
            client.sends(b"x" * 2 * rate, more=True)
        client.sends(b'"}')
        await asked
        assert client.status == status

    run(main())


def test_what_is_over_the_limit_earns_no_time() -> None:
    async def main() -> None:
        client = Client(call=None)
        began = now()
        asked = client.ask(_read(max_body=8192))
        while not asked.done():
            client.sends(b"x" * 100_000, more=True)
            await asyncio.sleep(1)
        assert now() - began <= 60 + 1 + 1 + 1
        assert client.status == 408

    run(main())
