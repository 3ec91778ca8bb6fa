"""A model in memory as the pool keeps it, and the right to use it."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from mlx_ollama.link import WorkerLink
from mlx_ollama.memory.estimate import Demand
from mlx_ollama.memory.growth import Weighed
from mlx_ollama.models.store import StoredModel
from mlx_ollama.policies.eviction import IdleModel
from mlx_ollama.protocol import Ready


@dataclass
class Claim:
    """Tokens that one request is expected to put into the cache, and how many of them are there by now."""

    expected: int
    reached: int = 0

    @property
    def left(self) -> int:
        return max(0, self.expected - self.reached)


@dataclass
class Resident:
    """A model that is loaded or loading. Names that share weights share one; `model` is whose request began it.

    `keep_alive` is in seconds, `idle_since` in seconds of the monotonic clock, None while in use or never used;
    `last_used` is in nanoseconds since the epoch. `users` counts requests by the name that they asked for,
    `promised` are the bytes that it will take once it is loaded, `token_bytes` those of a token in its cache.
    """

    model: StoredModel
    keep_alive: float
    users: Counter[str] = field(default_factory=Counter)
    idle_since: float | None = None
    context_length: int = 0
    use_count: int = 0
    last_used: int = 0
    load_seconds: float = 0.0
    promised: int = 0
    token_bytes: int = 0
    is_restart: bool = False
    claims: list[Claim] = field(default_factory=list)
    weighed: Weighed = field(default_factory=Weighed)
    link: WorkerLink | None = None
    ready: Ready | None = None
    loading: "asyncio.Task[Ready] | None" = None
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        return self.model.weights_digest

    @property
    def name(self) -> str:
        return self.model.name.display

    @property
    def user_count(self) -> int:
        return self.users.total()

    @property
    def is_idle(self) -> bool:
        """Whether it may be unloaded: loaded, and used by nobody."""
        return self.ready is not None and not self.user_count

    @property
    def growth(self) -> int:
        """Bytes by which its cache is going to grow: a batch has as many rows as answers, each as long as the longest.

        Nothing while it loads: what it then takes is promised as a whole.
        """
        if self.ready is None or not self.claims:
            return 0
        return len(self.claims) * max(claim.left for claim in self.claims) * self.token_bytes

    def claim(self, demand: Demand | None) -> Claim | None:
        """Note what a request is going to hold; taken back by `drop`."""
        if demand is None:
            return None
        claim = Claim(demand.expected)
        self.claims.append(claim)
        return claim

    def drop(self, claim: Claim | None) -> None:
        # By identity: claims of the same size are equal, and each is somebody's own.
        self.claims = [other for other in self.claims if other is not claim]

    def expires_in(self, now: float) -> float:
        """Seconds until it is unloaded if nothing happens; a full term while it is in use for the first time."""
        return self.keep_alive if self.idle_since is None else self.idle_since + self.keep_alive - now

    def fresh(self) -> "Resident":
        """The same model without a worker, its clocks and counts as they are, for a worker that is to come."""
        return Resident(
            self.model,
            self.keep_alive,
            idle_since=self.idle_since,
            context_length=self.context_length,
            use_count=self.use_count,
            last_used=self.last_used,
            weighed=Weighed(self.use_count, self.use_count),
        )

    def as_idle(self, now: float) -> IdleModel:
        """What a chooser may know of it."""
        return IdleModel(
            key=self.key,
            name=self.name,
            size=self.ready.weight_bytes if self.ready else 0,
            use_count=self.use_count,
            idle_seconds=0.0 if self.idle_since is None else now - self.idle_since,
            expires_seconds=self.expires_in(now),
            load_seconds=self.load_seconds,
        )


@dataclass(frozen=True)
class Lease:
    """The right to use a loaded model until the block ends. `claim` is to be told how far its answer has come."""

    resident: Resident
    link: WorkerLink
    ready: Ready
    claim: Claim | None = None

    def reached(self, tokens: int) -> None:
        """Say how many tokens of the request are in the cache by now."""
        if self.claim is not None:
            self.claim.reached = tokens


@dataclass
class Tally:
    """What a pool has done so far, for those who measure it.

    Of the requests that were `tried_again` after a worker's death, `resumed` were in the middle of their answers.
    `replaced` are idle workers that had grown.
    """

    loads: int = 0
    load_seconds: float = 0.0
    failed_loads: int = 0
    refused_loads: int = 0
    deaths: int = 0
    tried_again: int = 0
    resumed: int = 0
    replaced: int = 0
    unloads: Counter[str] = field(default_factory=Counter)
    """By reason: keep_alive, request, memory, shutdown."""
