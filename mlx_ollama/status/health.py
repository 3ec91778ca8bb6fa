"""Health, as `GET /health` and `GET /status` tell it: pure functions of the vitals."""

from collections.abc import Sequence
from typing import Any, Literal

from mlx_ollama import __version__
from mlx_ollama.memory.gauge import GIGABYTE
from mlx_ollama.status.vitals import CachedModel, Vitals

SERVICE = "mlx-ollama"

Status = Literal["healthy", "degraded", "warning", "critical", "starting", "draining"]


def status_of(vitals: Vitals) -> Status:
    """The worst that holds: memory before load; `starting` and `draining` hide the rest, since nothing is taken then.

    Memory is critical above its threshold, and a warning at or above the lower one.
    """
    if vitals.phase != "serving":
        return vitals.phase
    if vitals.memory is not None:
        if vitals.memory.percent > vitals.thresholds.critical:
            return "critical"
        if vitals.memory.percent >= vitals.thresholds.warning:
            return "warning"
    return "degraded" if vitals.active >= vitals.most or vitals.restarting else "healthy"


def code_of(vitals: Vitals) -> int:
    """The HTTP status: 503 while no work is taken, else 200, since a busy server is no dead one."""
    return 200 if vitals.phase == "serving" else 503


def warnings_of(vitals: Vitals) -> list[str]:
    """What is the matter with memory and load, in words; nothing else."""
    return [*_about_memory(vitals), *_about_load(vitals)]


def health(vitals: Vitals, total_models: int) -> dict[str, Any]:
    """The whole of it. `total_models` is how many the store has."""
    return {
        "status": status_of(vitals),
        "service": SERVICE,
        "version": __version__,
        "active_requests": vitals.active,
        "max_concurrent": vitals.most,
        "active_model_requests": dict(vitals.requests),
        "memory": _memory(vitals),
        "models_cached": len(vitals.cached),
        "cached_models": [_cached(model) for model in vitals.cached],
        "total_models": total_models,
        "rate_limit": {"max_per_window": vitals.rate_limit, "window_seconds": vitals.rate_window},
        "warnings": warnings_of(vitals),
        "queued_requests": vitals.waiting,
        "restarting_models": list(vitals.restarting),
    }


def short(vitals: Vitals) -> dict[str, Any]:
    """The few fields that a glance needs."""
    return {
        "status": status_of(vitals),
        "service": SERVICE,
        "version": __version__,
        "active_requests": vitals.active,
        "max_concurrent": vitals.most,
        "models_cached": len(vitals.cached),
        "memory_used_percent": _memory(vitals)["used_percent"],
        "warnings": warnings_of(vitals),
    }


def _memory(vitals: Vitals) -> dict[str, Any]:
    """Sizes in GB of 2^30 bytes; null where nothing is measured, and `guard` then says why."""
    reading = vitals.memory
    return {
        "used_percent": None if reading is None else round(reading.percent, 1),
        "available_gb": None if reading is None else round(reading.available / GIGABYTE, 2),
        "total_gb": None if reading is None else round(reading.total / GIGABYTE, 2),
        "warning_threshold": vitals.thresholds.warning,
        "critical_threshold": vitals.thresholds.critical,
        "emergency_threshold": vitals.thresholds.emergency,
        "guard": "off: psutil is not installed" if reading is None else "on",
        "source": None if reading is None else reading.source,
    }


def _cached(model: CachedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "use_count": model.use_count,
        "last_used": model.last_used_text,
        "load_time_seconds": round(model.load_seconds, 3),
        "active_requests": model.active_requests,
        "is_loading": model.is_loading,
    }


def _about_memory(vitals: Vitals) -> Sequence[str]:
    reading, thresholds = vitals.memory, vitals.thresholds
    if reading is None or reading.percent < thresholds.warning:
        return []
    used = f"memory is {reading.percent:.1f} % in use"
    if reading.percent > thresholds.critical:
        return [f"{used}, critical is {thresholds.critical:g} %: idle models are unloaded, new ones are refused"]
    return [f"{used}, the warning level is {thresholds.warning:g} %"]


def _about_load(vitals: Vitals) -> Sequence[str]:
    if vitals.active < vitals.most:
        return []
    waiting = f", {vitals.waiting} wait" if vitals.waiting else ""
    return [f"overload: {vitals.active} of {vitals.most} inference requests at once are under way{waiting}"]
