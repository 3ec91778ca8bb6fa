"""Figures for Prometheus. What happens is counted here; what is, is asked of the monitor when somebody looks."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mlx_ollama import errors
from mlx_ollama.status.vitals import Monitor, Vitals
from mlx_ollama.types import Usage

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "mlx_ollama"
OTHER = "other"

MOST_MODELS = 64
"""So many models have a label of their own, for the life of the server; the rest share one."""

FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

_POLICIES: dict[type[errors.MlxOllamaError], str] = {
    errors.OutOfMemory: "memory",
    errors.Overloaded: "concurrency",
    errors.RateLimited: "rate_limit",
    errors.DeadlinePassed: "deadline",
    errors.Unauthorized: "keys",
    errors.TooLarge: "body_size",
    errors.TooSlow: "body_timeout",
    errors.LimitReached: "other",
    errors.ShuttingDown: "drain",
}
"""Who refuses with which error, by the nearest class in its line of descent."""


class Metrics:
    """The figures of one gateway, in a registry of its own: nothing of other libraries gets in."""

    def __init__(self, monitor: Monitor) -> None:
        self._models: set[str] = set()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Standing(monitor))
        self._requests = self._counter("requests", "Requests by endpoint and outcome.", "endpoint", "outcome")
        self._refusals = self._counter("refusals", "Requests that a policy refused.", "policy")
        self._tokens = self._counter("tokens", "Tokens read in prompts and generated.", "model", "kind")
        self._prompts = self._counter("prompts", "Prompts by whether a beginning was remembered.", "model", "cache")
        self._reused = self._counter("prompt_tokens_reused", "Tokens of prompts that were remembered.", "model")
        self._first_token = Histogram(
            f"{PREFIX}_time_to_first_token_seconds",
            "From a request's taking up to its first token; loading counts.",
            ["model"],
            buckets=FIRST_TOKEN_SECONDS,
            registry=self._registry,
        )

    def request(self, endpoint: str | None, outcome: str, error: BaseException | None) -> None:
        """A request has ended. `endpoint` is one of the routes, None for a path that is not there."""
        self._requests.labels(endpoint or OTHER, outcome).inc()
        if (policy := policy_of(error)) is not None:
            self._refusals.labels(policy).inc()

    def first_token(self, model: str, seconds: float) -> None:
        """An answer has begun (meter.py)."""
        self._first_token.labels(self._label(model)).observe(seconds)

    def recalled(self, model: str, tokens: int) -> None:
        """So much of a prompt was remembered (meter.py)."""
        self._prompts.labels(self._label(model), "hit" if tokens else "miss").inc()
        self._reused.labels(self._label(model)).inc(tokens)

    def answered(self, model: str, usage: Usage) -> None:
        """A request was answered to its end (meter.py)."""
        self._tokens.labels(self._label(model), "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(self._label(model), "generated").inc(usage.eval_tokens)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}_total", help_text, labels, registry=self._registry)

    def _label(self, model: str) -> str:
        if model not in self._models and len(self._models) >= MOST_MODELS:
            return OTHER
        self._models.add(model)
        return model


def policy_of(error: BaseException | None) -> str | None:
    """The policy behind an error; None for one that no policy has raised, such as a failure of a worker."""
    return next((_POLICIES[kind] for kind in type(error).__mro__ if kind in _POLICIES), None)


class _Standing(Collector):
    """What the server is at this moment, and what its pool has done so far."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        vitals = self._monitor.vitals()
        yield _gauge("active_requests", "Inference requests under way.", vitals.active)
        yield _gauge("queued_requests", "Inference requests that wait for their turn.", vitals.waiting)
        yield _gauge("max_concurrent_requests", "Inference requests that may be under way at once.", vitals.most)
        yield from _memory(vitals)
        yield _gauge("models_loaded", "Models in memory.", sum(not model.is_loading for model in vitals.cached))
        yield _gauge("models_loading", "Models on their way there.", sum(model.is_loading for model in vitals.cached))
        yield _gauge("model_weight_bytes", "Weights in memory.", sum(model.size for model in vitals.cached))
        yield from self._pool()

    def _pool(self) -> Iterator[Metric]:
        tally = self._monitor.tally
        loads = CounterMetricFamily(
            f"{PREFIX}_model_loads", "Loads of models by what came of them.", labels=["outcome"]
        )
        loads.add_metric(["loaded"], tally.loads)
        loads.add_metric(["failed"], tally.failed_loads)
        loads.add_metric(["refused"], tally.refused_loads)
        yield loads
        yield _counter("model_load_seconds", "Time that loads took.", tally.load_seconds)
        evictions = CounterMetricFamily(f"{PREFIX}_evictions", "Models unloaded, by reason.", labels=["reason"])
        for reason in ("keep_alive", "memory", "request", "shutdown"):
            evictions.add_metric([reason], tally.unloads[reason])
        yield evictions
        yield _counter("worker_deaths", "Workers that ended and should not have.", tally.deaths)
        replaced = "Idle workers that had grown and were replaced; what they remembered of prompts is lost."
        yield _counter("worker_replacements", replaced, tally.replaced)
        retried = "Requests that went on in a new worker, from their beginning or in mid-answer."
        yield _counter("retried_requests", retried, tally.tried_again)
        yield _counter("resumed_streams", "Answers that went on in a new worker, text unbroken.", tally.resumed)


def _memory(vitals: Vitals) -> Iterator[Metric]:
    if vitals.memory is not None:
        yield _gauge("memory_used_bytes", "Memory in use, file caches left out.", vitals.memory.used)
        yield _gauge("memory_total_bytes", "Memory that there is, or that the container may use.", vitals.memory.total)
        yield _gauge("memory_used_percent", "Memory in use, as health has it.", vitals.memory.percent)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", help_text, value=value)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}_{name}", help_text, value=value)
