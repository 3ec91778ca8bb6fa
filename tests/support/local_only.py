"""A day with the server, from the import of a model to its answers: `python -m tests.support.local_only HOME ENCODER`.

It prints what the kernel counted meanwhile of packets that had nowhere to go; told `--try` it tries to send one.
"""

import json
import socket
import sys
from contextlib import suppress
from pathlib import Path

from tests.support.server import run_cli, serving


def main(home: Path, encoder: Path) -> None:
    for arguments in (("demo",), ("import", "encoder", str(encoder))):
        made = run_cli(*arguments, "--home", str(home))
        assert made.returncode == 0, made.stderr
    with serving(home) as server:
        names = [model["name"] for model in server.client.get("/api/tags").json()["models"]]
        assert sorted(names) == ["encoder:latest", "smollm2:135m"]
        assert server.post("/api/show", {"model": "smollm2:135m"}).json()["model_info"]
        question = {"role": "user", "content": "What is the capital of France?"}
        options = {"num_predict": 8, "temperature": 0}
        chat = server.lines("/api/chat", {"model": "smollm2:135m", "messages": [question], "options": options})
        assert "Paris" in "".join(line["message"]["content"] for line in chat)
        assert server.post("/api/embed", {"model": "encoder", "input": "bada"}).json()["embeddings"]
        assert server.stop() == 0


def try_it() -> None:
    """Both ways of going out, so that it is seen whether one would be noticed."""
    with suppress(OSError):
        socket.getaddrinfo("example.org", 443)
    with suppress(OSError):
        socket.create_connection(("192.0.2.1", 443), 1)


def unroutable() -> int:
    """Packets for which this network namespace had no way, since it was made."""
    lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")]
    six = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return int(dict(zip(*lines, strict=True))["OutNoRoutes"]) + int(six["Ip6OutNoRoutes"])


if __name__ == "__main__":
    if "--try" in sys.argv:
        try_it()
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"unroutable": unroutable() if sys.platform == "linux" else 0}))
