"""How many inference requests run at once, and how many may wait for their turn."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.types import ASGIApp, Receive, Scope, Send

from mlx_ollama.errors import Overloaded
from mlx_ollama.policies.inference import is_inference

REMEMBERED_TIMES = 64
"""Of so many answers the mean time is what the next ones are expected to take."""


class Slots:
    """Permits to generate, handed out in the order of asking. One writer: whoever runs `taken`.

    `most` at once, `queue` more may wait, each for `patience` seconds (0 for ever). `message` is what the others are
    told, with `{most}` in it if it is to say how many. `clock` gives seconds.
    """

    def __init__(
        self,
        most: int,
        *,
        queue: int,
        patience: float,
        message: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most, self.queue = most, queue
        self._patience = patience
        self._message = message.format(most=most)
        self._clock = clock
        self._began: dict[object, float] = {}
        self._turns: deque[asyncio.Future[None]] = deque()
        self._granted = 0
        self._refused = 0
        self._times: deque[float] = deque(maxlen=REMEMBERED_TIMES)

    @property
    def active(self) -> int:
        """Permits that are out."""
        return self._granted

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._turns)

    @property
    def bound(self) -> str:
        """The setting that says how many there may be: the queue's where there is one."""
        return "MLX_API_QUEUE" if self.queue else "MLX_API_MAX_CONCURRENT"

    @property
    def service_seconds(self) -> float:
        """What an answer takes: the mean of recent ones, before the first one the age of the oldest that runs."""
        if self._times:
            return sum(self._times) / len(self._times)
        return max((self._clock() - began for began in self._began.values()), default=0.0)

    def overloaded(self, setting: str) -> Overloaded:
        """The error for a request that finds no room for want of `setting`, with the time after which there should be.

        As many as there are permits are told different times, so that a crowd does not come back as one.
        """
        place = self.waiting + 1 + self._refused % self.most
        self._refused += 1
        expected = max(1, math.ceil(self.service_seconds * place / self.most))
        return Overloaded(self._message, setting=setting, retry_after=expected)

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold a permit for the block. Only blocks that end well count for the time that an answer takes.

        Raises:
            Overloaded: if there is no room to wait, or the wait was in vain.
        """
        await self._turn()
        holder = object()
        began = self._began[holder] = self._clock()
        try:
            yield
            self._times.append(self._clock() - began)
        finally:
            del self._began[holder]
            self._pass_on()

    async def _turn(self) -> None:
        if self._granted < self.most:
            self._granted += 1
            return
        if len(self._turns) >= self.queue:
            raise self.overloaded(self.bound)
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            async with asyncio.timeout(self._patience or None):
                await turn
        except BaseException as error:
            if turn.cancelled():
                # Unless a permit has passed it by already.
                with suppress(ValueError):
                    self._turns.remove(turn)
            else:
                # It was granted in the very moment in which its caller left or gave up.
                self._pass_on()
            if isinstance(error, TimeoutError):
                raise self.overloaded("MLX_API_QUEUE_TIMEOUT") from None
            raise

    def _pass_on(self) -> None:
        """Give a permit that has been returned to whoever has waited longest."""
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._granted -= 1


class Concurrency:
    """Holds a permit of `slots` for as long as an answer to an inference request is under way.

    Raises:
        Overloaded: if all are out, and no more may wait.
    """

    def __init__(self, app: ASGIApp, *, slots: Slots) -> None:
        self.app = app
        self._slots = slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_inference(scope):
            await self.app(scope, receive, send)
            return
        async with self._slots.taken():
            await self.app(scope, receive, send)
