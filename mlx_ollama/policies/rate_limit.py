"""How many inference requests one address may send in a stretch of time."""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.errors import RateLimited
from mlx_ollama.peers import Peers, whose
from mlx_ollama.policies.inference import is_inference

MOST_ADDRESSES = 4096
MOST_REMEMBERED = 1 << 17
"""Requests of all addresses together, at 32 bytes each. Beyond either limit the address that was quiet for longest is
forgotten, and begins anew."""


class Rates:
    """Who was let in when: at most `most` requests of an address in any `window` seconds. 0 is no limit.

    Only requests that were let in count, so a client that asks too often is let in again as soon as the oldest of them
    is a window old. `clock` gives seconds.
    """

    def __init__(self, most: int, window: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.window = most, window
        self._clock = clock
        self._admitted: OrderedDict[str, deque[float]] = OrderedDict()
        self._remembered = 0

    @property
    def addresses(self) -> int:
        """How many are remembered."""
        return len(self._admitted)

    def admit(self, address: str) -> None:
        """Let a request in.

        Raises:
            RateLimited: if its address has had its share; with the seconds after which it is let in.
        """
        if not self.most:
            return
        now = self._clock()
        self._forget_quiet(now)
        times = self._admitted.setdefault(address, deque())
        while times and now - times[0] >= self.window:
            times.popleft()
            self._remembered -= 1
        if len(times) >= self.most:
            raise RateLimited(retry_after=max(1, math.ceil(times[0] + self.window - now)))
        times.append(now)
        self._remembered += 1
        # The order is that of the last admission, so the quiet ones are in front.
        self._admitted.move_to_end(address)
        while len(self._admitted) > MOST_ADDRESSES or self._remembered > MOST_REMEMBERED:
            self._forget_first()

    def _forget_quiet(self, now: float) -> None:
        while self._admitted and now - next(iter(self._admitted.values()))[-1] >= self.window:
            self._forget_first()

    def _forget_first(self) -> None:
        _, times = self._admitted.popitem(last=False)
        self._remembered -= len(times)


class RateLimit:
    """Counts inference requests by the address of their client, as `peers` sees it.

    Raises:
        RateLimited: as `Rates` says.
    """

    def __init__(self, app: ASGIApp, *, rates: Rates, peers: Peers) -> None:
        self.app = app
        self._rates = rates
        self._peers = peers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_inference(scope):
            forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
            peer, _ = scope.get("client") or ("", 0)
            self._rates.admit(whose(self._peers.client(peer, forwarded)))
        await self.app(scope, receive, send)
