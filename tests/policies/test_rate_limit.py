"""How many requests an address may send, and when the next one is let in."""

import asyncio

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.doors import refuse_of
from mlx_ollama.errors import RateLimited
from mlx_ollama.peers import Peers
from mlx_ollama.policies import rate_limit
from mlx_ollama.policies.errors import Errors
from mlx_ollama.policies.rate_limit import RateLimit, Rates
from mlx_ollama.settings import SettingsError, load
from mlx_ollama.types import Chat, Embed, Show
from tests.support.asgi import COMPLETION, Client


class Clock:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


def _refused(rates: Rates, address: str = "a") -> int | None:
    """The seconds to wait, None if let in."""
    try:
        rates.admit(address)
    except RateLimited as error:
        return error.retry_after
    return None


def test_thirty_in_sixty_seconds() -> None:
    settings = load({}, {}).settings
    clock = Clock()
    rates = Rates(settings.rate_limit, settings.rate_window, clock=clock)
    for _ in range(30):
        assert _refused(rates) is None
        clock.now += 0.5
    # The first came 15 s ago.
    assert _refused(rates) == 45
    assert _refused(rates, "b") is None


def test_when_to_come_again_is_right_to_the_second() -> None:
    clock = Clock()
    rates = Rates(3, 60.0, clock=clock)
    for gap in (0.0, 7.3, 20.0):
        clock.now += gap
        assert _refused(rates) is None
    for elapsed in (0.0, 0.4, 10.0, 22.0):
        clock.now += elapsed
        wait = _refused(rates)
        assert wait is not None
        began = clock.now
        clock.now = began + wait - 1
        assert _refused(rates) is not None
        clock.now = began
    wait = _refused(rates)
    assert wait is not None
    clock.now += wait
    assert _refused(rates) is None
    assert _refused(rates) is not None, "one was old enough, no more"


def test_requests_that_were_refused_do_not_count() -> None:
    clock = Clock()
    rates = Rates(1, 60.0, clock=clock)
    assert _refused(rates) is None
    for _ in range(59):
        clock.now += 1
        assert _refused(rates)
    clock.now += 1
    assert _refused(rates) is None


def test_no_limit() -> None:
    rates = Rates(0, 60.0)
    assert [_refused(rates) for _ in range(1000)] == [None] * 1000
    assert rates.addresses == 0


def test_memory_for_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    rates = Rates(30, 60.0, clock=clock)
    for number in range(10_000):
        assert _refused(rates, str(number)) is None
    assert rates.addresses == 4096
    clock.now += 60
    assert _refused(rates, "new") is None
    assert rates.addresses == 1, "who was quiet for a window is forgotten"
    monkeypatch.setattr(rate_limit, "MOST_REMEMBERED", 100)
    for number in range(20):
        for _ in range(30):
            assert _refused(rates, str(number)) is None
        assert rates.addresses <= 4


def test_an_absurd_limit_is_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match="at most 100000"):
        load({}, {"MLX_API_RATE_LIMIT": "100001"})


def _app(rates: Rates, *trusted: str) -> ASGIApp:
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return Errors(RateLimit(endpoint, rates=rates, peers=Peers(trusted)), refuse_of=refuse_of)


def _ask(app: ASGIApp, client: Client) -> Client:
    async def main() -> None:
        await client.ask(app)

    asyncio.run(main())
    return client


@pytest.mark.parametrize("call", [COMPLETION, Chat(model="m"), Embed(model="m")])
def test_inference_is_limited_and_nothing_else(call: Chat) -> None:
    app = _app(Rates(1, 60.0, clock=Clock()))
    assert _ask(app, Client(call=call)).status == 200
    refused = _ask(app, Client(call=call))
    assert (refused.status, refused.error) == (429, "Rate limit exceeded")
    assert refused.headers["retry-after"] == "60"
    assert refused.headers["x-mlx-ollama-setting"] == "MLX_API_RATE_LIMIT"
    for free in (Show(model="m"), Chat(model="m", keep_alive=0)):
        assert [_ask(app, Client(call=free)).status for _ in range(3)] == [200] * 3
    assert _ask(app, Client(call=call, address="10.0.0.2")).status == 200


def test_the_dialects_words() -> None:
    app = _app(Rates(1, 60.0, clock=Clock()))
    _ask(app, Client())
    assert _ask(app, Client("/v1/messages")).error == {"type": "rate_limit_error", "message": "Rate limit exceeded"}
    error = _ask(app, Client("/v1/chat/completions")).error
    assert (error["message"], error["type"]) == ("Rate limit exceeded", "api_error")


def test_a_network_of_ipv6_is_one_client() -> None:
    app = _app(Rates(1, 60.0, clock=Clock()), "10.0.0.1")
    addresses = ("2001:db8:1:1::1", "2001:db8:1:1::2", "2001:db8:1:2::1", "::ffff:192.0.2.1", "::ffff:192.0.2.2")
    asked = [_ask(app, Client(headers={"x-forwarded-for": address})).status for address in addresses]
    assert asked == [200, 429, 200, 200, 200]


def test_a_proxy_speaks_for_others_only_if_it_is_trusted() -> None:
    forwarded = [{"x-forwarded-for": "198.51.100.1"}, {"x-forwarded-for": "198.51.100.2"}]
    for trusted, statuses in (((), [200, 429]), (("10.0.0.1",), [200, 200])):
        app = _app(Rates(1, 60.0, clock=Clock()), *trusted)
        assert [_ask(app, Client(headers=headers)).status for headers in forwarded] == statuses
