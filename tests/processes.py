"""The consumer as a process of its own, which a test stops, kills and asks how it is."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, Signals
from types import MappingProxyType

import psutil

from consumer.embedded.identity import Tenant
from consumer.settings import inherited_environment
from tests.helpers import wait_until

READY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 60.0
RUN = ("-m", "consumer.cli", "run")

# The claims of a dead consumer are free soon. No shorter: on a busy machine a living one would lose its own.
QUICK = {"LOTUS_ACK_WAIT_S": "8", "LOTUS_DRAIN_TIMEOUT_S": "20"}


class ConsumerProcess:
    """One `lotus-lake run`; its log lines are in `log`."""

    def __init__(self, log: Path, port: int, command: Sequence[str], environment: dict[str, str]) -> None:
        self.log = log
        self._url = f"http://127.0.0.1:{port}"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def status(self) -> int | None:
        """The exit status; None while it runs. Ended by a signal: minus its number."""
        return self._process.poll()

    def page(self, path: str) -> tuple[int, str]:
        """One of its HTTP pages: status and text; (0, "") while nobody answers."""
        try:
            with urllib.request.urlopen(f"{self._url}{path}", timeout=2) as answer:  # noqa: S310 - its own http page
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> tuple[int, str]:
        """What /readyz says: status and reason."""
        status, text = self.page("/readyz")
        return status, json.loads(text)["reason"] if text else ""

    def metric(self, sample: str) -> float:
        """A sample of /metrics by its name with labels; 0 if it is not there."""
        for line in self.page("/metrics")[1].splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    def wait_for(self, reason: str, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Waits until /readyz gives this reason."""
        self._wait(lambda: self.ready()[1] == reason, f"/readyz to say {reason}", timeout_s)

    def wait_until_idle(self) -> None:
        """Waits until it is the writer, hears the filer and has swept what there was."""
        self.wait_for("writer")
        self._wait(
            lambda: (
                self.metric("lotus_lake_filer_tail_connected") == 1
                and self.metric("lotus_lake_swept_timestamp_seconds") > 0
            ),
            "filer tail and sweep",
            READY_TIMEOUT_S,
        )

    def wait_for_log(self, text: str, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Waits until its log holds this text."""
        self._wait(lambda: text in self.log.read_text(), f"{text!r} in the log", timeout_s)

    def wait_for_end(self, *, timeout_s: float = END_TIMEOUT_S) -> int:
        """Waits until it has ended; returns the exit status."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the consumer did not end in {timeout_s} s:\n{self.tail()}") from None

    def ends_within(self, seconds: float) -> bool:
        """Waits so long for its end; says whether it came."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> int:
        """Ends it by SIGTERM; returns the exit status."""
        self._process.send_signal(SIGTERM)
        return self.wait_for_end()

    def kill(self) -> None:
        """Ends it by SIGKILL, if it has not ended."""
        self._process.send_signal(SIGKILL)
        self._process.wait()

    def send(self, signal: Signals) -> None:
        """Sends it a signal."""
        self._process.send_signal(signal)

    def pause(self) -> None:
        """Stops it in its tracks."""
        self._process.send_signal(SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._process.send_signal(SIGCONT)

    def is_stopped(self) -> bool:
        """Whether it stands still by SIGSTOP."""
        return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        def true_or_ended() -> bool:
            if self.status() is not None:
                raise AssertionError(f"the consumer ended with {self.status()}:\n{self.tail()}")
            return condition()

        try:
            wait_until(true_or_ended, timeout_s=timeout_s, what=what)
        except AssertionError as error:
            error.add_note(self.tail())
            raise


@contextmanager
def consumer_process(
    tenant: Tenant,
    log: Path,
    *,
    command: Sequence[str] = RUN,
    port: int | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Generator[ConsumerProcess]:
    """Runs the tenant's consumer for a `with` block, and kills what is left of it then.

    Args:
        tenant: whose consumer.
        log: where its output goes.
        command: what Python runs; `lotus-lake run` if not given.
        port: of its HTTP pages, for the second consumer of a tenant.
        settings: more variables of its environment.
    """
    port = port or tenant.http_port
    environment = inherited_environment() | tenant.env() | QUICK | {"LOTUS_HTTP_PORT": str(port), **settings}
    process = ConsumerProcess(log, port, command, environment)
    try:
        yield process
    finally:
        process.kill()
