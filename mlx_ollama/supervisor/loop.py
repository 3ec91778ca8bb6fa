"""Keeps one gateway alive: looks, decides with `supervision`, and acts."""

import shlex
import signal
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from mlx_ollama.settings import Settings
from mlx_ollama.supervision import Backoff, CircuitBreaker, RestartPolicy
from mlx_ollama.supervisor.events import Event, EventBus, Kind, complain
from mlx_ollama.supervisor.gateway import GatewayProcess
from mlx_ollama.supervisor.signals import Signals

BAD_USAGE = 2
"""The exit status of `serve` for settings that cannot be used: no restart mends them."""


class Supervisor:
    """Starts `mlx-ollama serve` with `flags`, and again whenever it ends unasked or does not answer.

    Every number is a setting (`supervise_…`); every event is published on `bus`.
    """

    def __init__(self, flags: Sequence[str], settings: Settings, bus: EventBus) -> None:
        self._flags = list(flags)
        self._port: Sequence[str] = ()
        self._settings = settings
        self._bus = bus
        self._budget = RestartPolicy(settings.supervise_restarts, settings.supervise_window)
        self._backoff = Backoff(settings.supervise_backoff, settings.supervise_backoff_most)
        self._breaker = CircuitBreaker(settings.supervise_breaker, settings.supervise_breaker_open)
        self._signals = Signals(self._pass_on)
        self._gateway: GatewayProcess | None = None
        self._restarts = 0
        self._answered = False
        """Whether the last gateway has answered at all."""
        self._status: int | None = None
        """How the last gateway ended; None if it did not by itself."""

    def run(self) -> int:
        """Supervise until an end is asked for (status 0) or restarts are of no use (1, or 2 for bad settings)."""
        with self._signals:
            self._live("started")
            while self._signals.asked is None:
                pause = self._pause(time.monotonic())
                if pause is None:
                    return self._give_up()
                self._sleep(pause)
                while self._signals.asked is None and not self._breaker.allow(time.monotonic()):
                    self._sleep(self._breaker.retry_in(time.monotonic()))
                if self._signals.asked is None:
                    self._restarts += 1
                    self._live("restarted")
            return self._stop()

    def _live(self, kind: Kind) -> None:
        """Start a gateway and watch it until it is no more, or until an end is asked for."""
        self._answered, self._status = False, None
        try:
            gateway = self._gateway = GatewayProcess.start([*self._flags, *self._port])
        except OSError as error:
            self._publish("down", reason=f"no process can be started: {error}")
            return
        self._publish(kind, pid=gateway.pid, restarts=self._restarts)
        if self._signals.asked is not None:
            # It was asked for while there was nobody to pass it on to.
            gateway.send(self._signals.asked)
        reason = self._watch(gateway, "ready" if kind == "started" else "recovered")
        if self._signals.asked is None:
            self._status = gateway.status()
            self._publish("down", pid=gateway.pid, reason=reason, exit_status=self._status)
            self._end(gateway, self._settings.supervise_grace, signal.SIGTERM)
            gateway.close()
            self._gateway = None

    def _watch(self, gateway: GatewayProcess, greeting: Kind) -> str:
        """Look after a gateway until it has to be replaced; why that is."""
        settings = self._settings
        opens_until = time.monotonic() + settings.supervise_start
        misses, next_check, listening = 0, 0.0, True
        while self._signals.asked is None:
            if (status := gateway.status()) is not None:
                return _ending(status)
            now = time.monotonic()
            if not gateway.address:
                if now >= opens_until:
                    return f"it opened no port within {settings.supervise_start:g} s"
            elif now >= next_check:
                next_check = now + settings.supervise_interval
                misses = 0 if gateway.answers(settings.supervise_timeout) else misses + 1
                if misses >= settings.supervise_misses:
                    return f"it gave no answer to {misses} checks in a row"
                if not misses and not self._answered:
                    self._greet(gateway, greeting)
            self._signals.wait(next_check if gateway.address else opens_until, *[gateway.line] * listening)
            listening = listening and gateway.listen()
        return ""

    def _greet(self, gateway: GatewayProcess, greeting: Kind) -> None:
        self._answered = True
        self._breaker.succeeded()
        self._publish(greeting, pid=gateway.pid, address=gateway.address)
        # Clients know this address. Where the port was any free one, the next gateway takes the same.
        self._port = [f"--port={urlsplit(gateway.address).port}"]

    def _pause(self, now: float) -> float | None:
        """How long to wait before a restart; None if there shall be none."""
        if not self._answered:
            self._breaker.failed(now)
        if self._status == BAD_USAGE or not self._budget.allow(now):
            return None
        return max(self._backoff.after(self._budget.recent(now)), self._breaker.retry_in(now))

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._signals.asked is None and time.monotonic() < until:
            self._signals.wait(until)

    def _end(self, gateway: GatewayProcess, patience: float, name: int | None) -> bool:
        """See a gateway to its end: a signal if need be, then patience, then SIGKILL; whether it took that."""
        if name is not None:
            gateway.send(name)
        until = time.monotonic() + patience
        while gateway.status() is None and time.monotonic() < until:
            self._signals.wait(until)
        if gateway.status() is not None:
            return False
        gateway.kill()
        return True

    def _stop(self) -> int:
        """The requested end: the gateway has the signal already, its drain budget and a little more to follow it."""
        facts: dict[str, Any] = {"signal": signal.Signals(self._signals.asked or 0).name}
        if self._gateway is not None:
            patience = self._settings.drain + self._settings.supervise_stop
            facts["killed"] = self._end(self._gateway, patience, None)
            facts |= {"pid": self._gateway.pid, "exit_status": self._gateway.status()}
            self._gateway.close()
        self._publish("stopped", **facts)
        return 0

    def _give_up(self) -> int:
        command = shlex.join(["mlx-ollama", "serve", *self._flags])
        if self._status == BAD_USAGE:
            reason = "the gateway refuses its settings"
            advice = (
                "Mend what it says above (`mlx-ollama config` shows where each value comes from), then start again."
            )
        else:
            restarts, window = self._settings.supervise_restarts, self._settings.supervise_window
            reason = f"the gateway is down again after {restarts} restarts in {window:g} s"
            log = f" or in {self._settings.log_file}" if self._settings.log_file else ""
            advice = (
                f"Its last words are above{log}. Run `{command}` by itself to see why it ends, mend that, and start "
                "the supervisor again. MLX_API_SUPERVISE_RESTARTS and MLX_API_SUPERVISE_WINDOW say how often it tries."
            )
        self._publish("gave_up", reason=reason, exit_status=self._status, advice=advice)
        complain(f"giving up: {reason}. {advice}")
        return BAD_USAGE if self._status == BAD_USAGE else 1

    def _pass_on(self, name: int) -> None:
        if self._gateway is not None:
            self._gateway.send(name)

    def _publish(self, kind: Kind, **facts: Any) -> None:
        self._bus.publish(Event(kind, {name: fact for name, fact in facts.items() if fact is not None}))


def _ending(status: int) -> str:
    if status < 0:
        name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")
        return f"it was ended by {name}"
    return f"it ended with exit status {status}"
