"""Permits: how many, for how long, in which order, and what those are told who get none."""

import asyncio
import random
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.app import OVERLOADED
from mlx_ollama.doors import DECODERS, DOORS, refuse_of
from mlx_ollama.errors import ModelNotFound, Overloaded
from mlx_ollama.policies.concurrency import Concurrency, Slots
from mlx_ollama.policies.decode import Decode
from mlx_ollama.policies.disconnect import CancelOnDisconnect
from mlx_ollama.policies.errors import Errors
from mlx_ollama.policies.in_flight import Crowd, InFlightCap
from mlx_ollama.settings import load
from mlx_ollama.store_routes import UPLOADS
from mlx_ollama.types import Chat, Completion, Embed, Show
from tests.support.asgi import Client, settle
from tests.support.clock import now, run


def _slots(most: int = 5, *, queue: int = 0, patience: float = 0.0) -> Slots:
    clock = asyncio.get_running_loop().time
    return Slots(most, queue=queue, patience=patience, message=OVERLOADED["guarded"], clock=clock)


def _app(slots: Slots, seconds: float = 10.0) -> ASGIApp:
    """Answers after so many seconds."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(seconds)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})

    inside: ASGIApp = CancelOnDisconnect(Concurrency(endpoint, slots=slots), uploads=UPLOADS)
    return Errors(inside, refuse_of=refuse_of)


def test_the_figures_of_the_guarded_profile() -> None:
    settings = load({}, {}).settings
    assert (settings.profile, settings.max_concurrent, settings.queue) == ("guarded", 5, 0)


def test_the_sixth_is_refused_at_once() -> None:
    async def main() -> None:
        slots = _slots(load({}, {}).settings.max_concurrent)
        app = _app(slots)
        five = [Client() for _ in range(5)]
        asked = [client.ask(app) for client in five]
        await settle()
        assert (slots.active, slots.waiting) == (5, 0)
        sixth, began = Client(), now()
        await sixth.ask(app)
        assert (sixth.status, sixth.error) == (503, "Server overloaded. Max 5 concurrent requests")
        assert sixth.headers["x-mlx-ollama-setting"] == "MLX_API_MAX_CONCURRENT"
        assert sixth.headers["retry-after"] == "1"
        assert (now(), slots.active) == (began, 5)
        await asyncio.gather(*asked)
        assert [client.status for client in five] == [200] * 5
        assert slots.active == 0

    run(main())


@pytest.mark.parametrize("path", DOORS)
def test_every_dialect_says_it_in_its_own_words(path: str) -> None:
    async def main() -> None:
        slots = _slots(1)
        app = _app(slots)
        first, second = Client(), Client(path)
        running = first.ask(app)
        await settle()
        await second.ask(app)
        assert second.status == 503
        error = second.error
        assert (error if path.startswith("/api/") else error["message"]) == (
            "Server overloaded. Max 1 concurrent requests"
        )
        if path.startswith("/v1/messages"):
            assert error["type"] == "overloaded_error"
        await running

    run(main())


def test_questions_about_models_and_unloading_never_count() -> None:
    async def main() -> None:
        slots = _slots(1)
        app = _app(slots, 1.0)
        running = Client().ask(app)
        await settle()
        unloading = (Completion(model="m", keep_alive=0), Chat(model="m", keep_alive=0))
        free = [Client(call=call) for call in (Show(model="m"), *unloading)]
        asked = [client.ask(app) for client in free]
        counted = [Client(call=call) for call in (Embed(model="m"), Chat(model="m"), Completion(model="m"))]
        await asyncio.gather(*(client.ask(app) for client in counted))
        assert [client.status for client in counted] == [503] * 3
        await asyncio.gather(running, *asked)
        assert [client.status for client in free] == [200] * 3

    run(main())


def test_when_to_come_again_is_measured() -> None:
    async def main() -> None:
        slots = _slots(2)
        assert slots.overloaded("").retry_after == 1, "nothing is known yet"

        async def hold(seconds: float, error: Exception | None = None) -> None:
            async with slots.taken():
                await asyncio.sleep(seconds)
                if error:
                    raise error

        oldest = asyncio.create_task(hold(30.0))
        await asyncio.sleep(9.0)
        # Nothing has ended: an answer takes at least what this one has taken. Two work at once, and are told in turns.
        assert (slots.service_seconds, slots.overloaded("").retry_after) == (9.0, 9)
        await oldest
        assert (slots.service_seconds, slots.overloaded("").retry_after) == (30.0, 15)
        await asyncio.create_task(hold(11.0))
        assert (slots.service_seconds, slots.overloaded("").retry_after) == (20.5, 21)
        with pytest.raises(ModelNotFound):
            await hold(0.0, ModelNotFound("no"))
        leaving = asyncio.create_task(hold(500.0))
        await asyncio.sleep(1)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert slots.service_seconds == 20.5, "what was refused or left is no measure"
        assert slots.active == 0
        for _ in range(64):
            await hold(2.0)
        assert (slots.service_seconds, slots.overloaded("").retry_after) == (2.0, 1)

    run(main())


def test_a_crowd_that_is_refused_does_not_come_back_as_one() -> None:
    async def main() -> None:
        slots = _slots(5)

        async def hold() -> None:
            async with slots.taken():
                await asyncio.sleep(20.0)

        await asyncio.create_task(hold())
        holding = [asyncio.create_task(hold()) for _ in range(5)]
        await settle()
        told = []
        for _ in range(7):
            with pytest.raises(Overloaded) as refused:
                await hold()
            told.append(refused.value.retry_after)
        assert told == [4, 8, 12, 16, 20, 4, 8]
        await asyncio.wait(holding)

    run(main())


def test_those_who_wait_are_let_in_in_order() -> None:
    async def main() -> None:
        slots = _slots(2, queue=3, patience=60.0)
        ended: list[int] = []

        async def work(number: int) -> None:
            async with slots.taken():
                await asyncio.sleep(10)
            ended.append(number)

        tasks = [asyncio.create_task(work(number)) for number in range(5)]
        await settle()
        assert (slots.active, slots.waiting) == (2, 3)
        with pytest.raises(Overloaded) as refused:
            await work(5)
        assert refused.value.setting == "MLX_API_QUEUE"
        began = now()
        await asyncio.gather(*tasks)
        assert ended == [0, 1, 2, 3, 4]
        assert now() - began == 30.0
        assert (slots.active, slots.waiting) == (0, 0)

    run(main())


def test_waiting_has_an_end() -> None:
    async def main() -> None:
        settings = load({}, {"MLX_API_QUEUE": "2"}).settings
        slots = _slots(1, queue=settings.queue, patience=settings.queue_timeout)
        app = _app(slots, 150.0)
        first, second = Client(), Client()
        running, began = first.ask(app), now()
        await settle()
        await second.ask(app)
        assert now() - began == 60.0
        assert (second.status, second.error) == (503, "Server overloaded. Max 1 concurrent requests")
        assert second.headers["x-mlx-ollama-setting"] == "MLX_API_QUEUE_TIMEOUT"
        assert second.headers["retry-after"] == "60"
        assert (slots.active, slots.waiting) == (1, 0)
        await running

    run(main())


def test_ollamas_profile_lets_512_wait_for_as_long_as_it_takes() -> None:
    async def main() -> None:
        settings = load({}, {"MLX_API_PROFILE": "ollama"}).settings
        assert (settings.queue, settings.queue_timeout, settings.rate_limit, settings.timeout) == (512, 0, 0, 0)
        clock = asyncio.get_running_loop().time
        slots = Slots(1, queue=settings.queue, patience=0, message=OVERLOADED["ollama"], clock=clock)
        app = _app(slots, 100.0)
        clients = [Client() for _ in range(514)]
        asked = [client.ask(app) for client in clients]
        await settle()
        assert (slots.active, slots.waiting) == (1, 512)
        last = clients[-1]
        assert (last.status, last.error) == (503, "server busy, please try again.  maximum pending requests exceeded")
        assert last.headers["x-mlx-ollama-setting"] == "MLX_API_QUEUE"
        began = now()
        await asyncio.gather(*asked)
        assert now() - began == 51_300.0
        assert [client.status for client in clients[:-1]] == [200] * 513

    run(main())


def test_who_leaves_while_waiting_never_runs() -> None:
    async def main() -> None:
        slots = _slots(1, queue=5)
        app = _app(slots, 10.0)
        clients = [Client() for _ in range(4)]
        asked = [client.ask(app) for client in clients]
        await settle()
        clients[1].leave()
        clients[2].leave()
        await settle()
        assert slots.waiting == 1
        began = now()
        await asyncio.wait(asked)
        assert now() - began == 20.0
        assert [len(client.sent) for client in clients] == [2, 0, 0, 2]
        assert (slots.active, slots.waiting) == (0, 0)

    run(main())


def test_a_permit_ends_with_its_answer_and_only_once() -> None:
    async def main() -> None:
        slots = _slots(1)
        active_while_sending = []

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        class Slow(Client):
            async def take(self, message: Any) -> None:
                await asyncio.sleep(5)
                active_while_sending.append(slots.active)
                await super().take(message)

        app = CancelOnDisconnect(Concurrency(endpoint, slots=slots), uploads=UPLOADS)
        await Slow().ask(app)
        assert active_while_sending == [1, 1]
        assert slots.active == 0
        gone = Slow()
        asked = gone.ask(app)
        await asyncio.sleep(1)
        assert slots.active == 1
        gone.leave()
        await settle()
        assert slots.active == 0, "the client has gone, and its permit with it"
        await asyncio.wait([asked])
        assert slots.active == 0

    run(main())


@pytest.mark.parametrize("seed", range(20))
def test_no_permit_is_lost_or_doubled_whatever_happens_when(seed: int) -> None:
    """Hang-ups, failures, grants and ends of patience, often in the very same moment."""

    async def main() -> None:
        chance = random.Random(seed)
        slots = _slots(3, queue=4, patience=3.0)
        running = 0

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal running
            running += 1
            assert running <= 3
            assert slots.active >= running
            try:
                await asyncio.sleep(chance.randrange(4))
                if chance.random() < 0.2:
                    raise ModelNotFound("no")
            finally:
                running -= 1
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        app = Errors(CancelOnDisconnect(Concurrency(endpoint, slots=slots), uploads=UPLOADS), refuse_of=refuse_of)

        async def visit() -> int:
            client = Client()
            await asyncio.sleep(chance.randrange(20))
            asked = client.ask(app)
            if chance.random() < 0.4:
                await asyncio.sleep(chance.randrange(4))
                client.leave()
            await asyncio.wait([asked])
            return client.status if client.sent else 0

        seen = await asyncio.gather(*(visit() for _ in range(120)))
        assert (slots.active, slots.waiting, running) == (0, 0, 0)
        assert {200, 503} <= set(seen) <= {0, 200, 404, 503}
        async with slots.taken(), slots.taken(), slots.taken():
            assert slots.active == 3

    run(main())


def _crowded(slots: Slots, crowd: Crowd) -> ASGIApp:
    inside = Decode(_app(slots), decoders=DECODERS, max_body=1000, timeout=60.0)
    return Errors(InFlightCap(inside, crowd=crowd, paths=DOORS), refuse_of=refuse_of)


def test_more_than_ten_are_refused_before_their_bodies_are_read() -> None:
    async def main() -> None:
        settings = load({}, {}).settings
        slots = _slots(settings.max_concurrent, queue=settings.queue)
        crowd = Crowd(slots)
        assert crowd.most == 5 + 0 + 5
        app = _crowded(slots, crowd)
        slow = [Client(call=None) for _ in range(10)]
        asked = [client.ask(app) for client in slow]
        await settle()
        assert (crowd.active, slots.active) == (10, 0)
        eleventh = Client("/v1/chat/completions", call=None)
        refused = eleventh.ask(app)
        await asyncio.sleep(2)
        # No body ever came.
        assert refused.done()
        assert eleventh.status == 503
        assert eleventh.error["message"] == "Server overloaded. Max 5 concurrent requests"
        assert eleventh.headers["x-mlx-ollama-setting"] == "MLX_API_MAX_CONCURRENT"
        assert eleventh.headers["retry-after"] == "1"
        other = Client("/api/show", call=None)
        other.sends(b'{"model":"m"}')
        await other.ask(app)
        assert other.status == 200
        for client in slow:
            client.sends(b'{"model":"m","prompt":"x"}')
        await asyncio.gather(*asked)
        assert sorted(client.status for client in slow) == [200] * 5 + [503] * 5
        assert (crowd.active, slots.active) == (0, 0)

    run(main())


def test_the_room_grows_with_the_queue() -> None:
    async def main() -> None:
        assert Crowd(_slots(16, queue=512)).most == 533

    run(main())
