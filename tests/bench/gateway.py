"""The gateway: how quick `/health` is under full load, what it holds, how soon it and its command are there."""

import http.client
import random
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

from tests.bench.contenders import NAMES, ROOM
from tests.bench.figure import Figure, Target, percentile
from tests.bench.http_server import CONTEXT, HttpServer
from tests.bench.jobs import Chat
from tests.bench.stream import pump
from tests.bench.subjects import Subject
from tests.support.server import clean_environment, run_cli, serving

STREAMS = 16
LONG_TOKENS = 4000
ENDLESS = CONTEXT // 2
"""Tokens of answers that shall not end before they are left."""

LONGEST_PAUSE = 0.04
"""Seconds between two probes. They vary, for frames have a rhythm of their own."""

MOST_PROBES = 400
LOOK_SECONDS = 0.005
STARTS = 3
"""Of each kind, in every round."""

HEALTH_MS = Target(20)
RESIDENT_MB = Target(90)
HELP_SECONDS = Target(0.3)
START_SECONDS = Target(1.0)


def measure(model: str, subject: Subject, rounds: int) -> None:
    health: list[Sequence[float]] = []
    resident, helps, starts = [], [], []
    for round_ in range(rounds):
        with serving(subject.home, "--keep-alive", "-1", env=ROOM) as server:
            ours = HttpServer(NAMES[0], server.port, subject.name, ours=True)
            health.append(_health(ours, subject, round_))
            resident.append(psutil.Process(server.process.pid).memory_info().rss / 1e6)
        helps += [_help() for _ in range(STARTS)]
        starts += [_start(subject) for _ in range(STARTS)]
    print(f"\n{model}: the gateway while {STREAMS} streams decode and a prompt of {LONG_TOKENS} tokens is read")
    probes = sum(map(len, health))
    Figure(f"/health, p50 of {probes} probes", [1e3 * percentile(waited, 50) for waited in health], "ms").show()
    slowest = [1e3 * percentile(waited, 99) for waited in health]
    Figure("/health, p99", slowest, "ms", HEALTH_MS).show()
    Figure("resident memory after that", resident, "MB", RESIDENT_MB, digits=1).show()
    Figure("mlx-ollama --help", helps, "s", HELP_SECONDS).show()
    Figure("mlx-ollama serve, until /api/version is answered", starts, "s", START_SECONDS).show()


def _health(ours: HttpServer, subject: Subject, round_: int) -> list[float]:
    """Seconds that `/health` took, while all is under way that shall be."""
    generator = random.Random(round_)
    texts = subject.prompts(("health", round_), STREAMS)
    streams = [ours.begin(Chat([{"role": "user", "content": text}], ENDLESS)) for text in texts]
    while not all(stream.started for stream in streams):
        pump(streams, LOOK_SECONDS)
    text = subject.prompt(("long", round_), LONG_TOKENS)
    long = ours.begin(Chat([{"role": "user", "content": text}], 1))
    probe, waited = http.client.HTTPConnection("127.0.0.1", ours.port), list[float]()
    while not long.started and len(waited) < MOST_PROBES:
        until = time.perf_counter() + generator.uniform(0.0, LONGEST_PAUSE)
        while (left := until - time.perf_counter()) > 0:
            pump([*streams, long], left)
        waited.append(_seconds_of_health(probe))
    probe.close()
    assert not any(stream.done for stream in streams), "an answer ended too early for full load"
    for stream in [*streams, long]:
        stream.close()
    return waited


def _seconds_of_health(probe: http.client.HTTPConnection) -> float:
    began = time.perf_counter()
    probe.request("GET", "/health")
    response = probe.getresponse()
    response.read()
    assert response.status == 200
    return time.perf_counter() - began


def _help() -> float:
    began = time.perf_counter()
    assert run_cli("--help").returncode == 0
    return time.perf_counter() - began


def _start(subject: Subject) -> float:
    """Seconds from the command to an answer, with all defaults."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "mlx_ollama", "serve", "--port", str(port), "--home", str(subject.home)]
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while not _tells_version(port):
                assert process.poll() is None, "no server"
                time.sleep(LOOK_SECONDS)
            return time.perf_counter() - began
        finally:
            process.terminate()


def _tells_version(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", "/api/version")
        return connection.getresponse().status == 200
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()
