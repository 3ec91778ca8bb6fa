"""What makes a setting one that cannot be used."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlx_ollama.peers import Peers

if TYPE_CHECKING:
    from mlx_ollama.settings import Settings

DEVICES = ("auto", "cpu", "gpu")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("plain", "json")
CHOICES = {"device": DEVICES, "log_level": LOG_LEVELS, "log_format": LOG_FORMATS}

MOST_RATE_LIMIT = 100_000

_ABOVE_ZERO = (
    *("connection_keep_alive", "max_body", "body_timeout", "write_timeout", "load_timeout", "prefill_slice"),
    *("max_concurrent", "rate_window", "log_size", "memory_interval", "worker_heartbeat", "worker_patience"),
    *("worker_backoff", "worker_breaker"),
    *("supervise_interval", "supervise_timeout", "supervise_misses", "supervise_start", "supervise_window"),
    *("supervise_breaker", "supervise_hook_timeout"),
)
_ZERO_OR_MORE = (
    *("drain", "context_length", "stream_keep_alive", "queue", "queue_timeout", "rate_limit", "timeout", "log_count"),
    *("supervise_restarts", "supervise_backoff", "supervise_backoff_most", "supervise_breaker_open"),
    *("supervise_grace", "supervise_stop", "keep_count", "worker_grace", "worker_backoff_most"),
    *("worker_breaker_open", "spare_pause"),
)

Complain = Callable[[str, str], None]
"""Told a setting's name and what is wrong with its value; raises."""


def check(settings: "Settings", refuse: Complain) -> None:
    """Complain of the first setting that cannot be used."""
    if settings.workers != 1:
        refuse("workers", "only 1 works: loaded models and limits are shared state of one gateway process")
    if not 0 <= settings.port <= 65535:  # noqa: PLR2004 - the range of ports
        refuse("port", "not a port")
    for name, choices in CHOICES.items():
        if getattr(settings, name) not in choices:
            refuse(name, f"must be one of {', '.join(choices)}")
    for names, least, words in (
        (_ABOVE_ZERO, math.ulp(0), "must be above 0"),
        (_ZERO_OR_MORE, 0, "must not be negative"),
    ):
        for name in names:
            if getattr(settings, name) < least:
                refuse(name, words)
    _check_memory(settings, refuse)
    if not all(settings.prompt_cache_chooser.partition(":")):
        refuse("prompt_cache_chooser", "not of the form package.module:Class")
    _check_addresses(settings, refuse)
    _check_access(settings, refuse)


def _check_memory(settings: "Settings", refuse: Complain) -> None:
    # Written so that it is also true of what is no number, here and below.
    if not settings.worker_growth >= 0:
        refuse("worker_growth", "must be a percentage, or 0")
    names = ("memory_warning", "memory_critical", "memory_emergency")
    for name in names:
        if not 0 < getattr(settings, name) <= 100:  # noqa: PLR2004 - percent
            refuse(name, "must be a percentage above 0 and up to 100")
    for lower, higher in pairwise(names):
        if getattr(settings, lower) > getattr(settings, higher):
            refuse(higher, f"must not be below {lower}, which is {getattr(settings, lower):g}")


def _check_addresses(settings: "Settings", refuse: Complain) -> None:
    if settings.rate_limit > MOST_RATE_LIMIT:
        refuse("rate_limit", f"at most {MOST_RATE_LIMIT}: the times of so many are remembered; 0 is no limit")
    try:
        Peers(settings.trusted_proxies)
    except ValueError as error:
        refuse("trusted_proxies", str(error))
    if settings.supervise_webhook and not settings.supervise_webhook.startswith(("http://", "https://")):
        refuse("supervise_webhook", "must begin with http:// or https://")


def _check_access(settings: "Settings", refuse: Complain) -> None:
    if not all(key.isascii() and key.isprintable() and " " not in key for key in settings.keys):
        refuse("keys", "a key goes into a header: ASCII, no spaces")
    if settings.upstream and not _is_base_url(settings.upstream):
        refuse("upstream", "must be http://host:port, with no user, query or fragment")
    if not _is_base_url(settings.registry):
        refuse("registry", "must be https://host:port, with no user, query or fragment")


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        # Asking for a port that is none raises.
        return bool(
            parts.scheme in ("http", "https")
            and parts.hostname
            and (parts.port is None or parts.port)
            and not (parts.username or parts.password or parts.query or parts.fragment)
        )
    except ValueError:
        return False
