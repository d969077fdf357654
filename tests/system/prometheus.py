"""A real Prometheus, which scrapes one consumer and judges our rules in a hurry."""

import json
import re
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers import wait_until
from tests.system.rules import PROMETHEUS, RULES

FAST_S = 1


def hurried(text: str) -> str:
    """Our files as a test has time for: a scrape and a judgement each second, and alerts after 2 s instead of minutes.

    Nothing else is changed: expressions, windows and labels are those of production.
    """
    text = re.sub(r"^(\s*for:) \S+$", r"\1 2s", text, flags=re.MULTILINE)
    return re.sub(r"^(\s*(?:scrape|evaluation)_interval:) \S+$", rf"\1 {FAST_S}s", text, flags=re.MULTILINE)


class Prometheus:
    """Asks a running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def is_ready(self) -> bool:
        """Whether it answers questions."""
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=2) as answer:  # noqa: S310 - its own page
                return answer.status == 200
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now; an expression that can't be parsed fails."""
        return self._get("query", {"query": expression})["result"]

    def label_values(self, label: str, selector: str) -> list[str]:
        """What a dashboard's variable offers."""
        return self._get(f"label/{label}/values", {"match[]": selector})

    def firing(self) -> dict[str, dict[str, Any]]:
        """The alerts that fire, by name."""
        alerts = self._get("alerts", {})["alerts"]
        return {each["labels"]["alertname"]: each for each in alerts if each["state"] == "firing"}

    def _get(self, path: str, parameters: dict[str, str]) -> Any:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - its own page
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from None


@contextmanager
def prometheus(folder: Path, *, scrapes: int) -> Generator[Prometheus]:
    """Runs a Prometheus for a `with` block, on a free port; `scrapes` is the port of the consumer's pages.

    A machine without Debian's package `prometheus`, or the same program in PATH, fails the test.
    """
    (folder / "rules.yml").write_text(hurried(RULES.read_text()))
    sample = hurried((PROMETHEUS / "prometheus.yml").read_text())
    assert "127.0.0.1:8080" in sample
    (folder / "prometheus.yml").write_text(sample.replace("127.0.0.1:8080", f"127.0.0.1:{scrapes}"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        except FileNotFoundError:
            raise AssertionError(
                "prometheus is not installed: `apt-get install prometheus`, or put it into PATH"
            ) from None
    running = Prometheus(f"http://127.0.0.1:{port}")

    def ready() -> bool:
        assert process.poll() is None, f"prometheus ended with {process.poll()}:\n{log.read_text()}"
        return running.is_ready()

    try:
        wait_until(ready, timeout_s=30, what="prometheus to be ready")
        yield running
    finally:
        process.kill()
        process.wait()
