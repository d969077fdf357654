"""`lotus-lake up` as a person runs it: one folder, the foreground, Ctrl-C; and `lotus-lake land` into it."""

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import psutil
import pytest
from typer.testing import CliRunner, Result

from consumer.cli import app
from consumer.settings import inherited_environment
from feeders.lake import load_extensions
from tests.helpers import wait_until

START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 60
LAND_TIMEOUT_S = 90
FILES = 12


def lotus_lake(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "consumer.cli", *arguments],
        env=inherited_environment() | settings,
        capture_output=True,
        text=True,
        timeout=LAND_TIMEOUT_S,
        check=False,
    )


class Up:
    """A running `lotus-lake up`."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self._output: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "consumer.cli", "up", "--dir", str(folder)],
            env=inherited_environment() | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._output.extend(self.process.stdout)

    @property
    def output(self) -> str:
        return "".join(self._output)

    def until_writer(self) -> "Up":
        """Waits until the consumer writes."""
        try:
            wait_until(self._is_writer, timeout_s=START_TIMEOUT_S, what="up to have a consumer that writes")
        except BaseException as error:
            error.add_note(self.output)
            raise
        return self

    def _is_writer(self) -> bool:
        assert self.process.poll() is None, self.output
        address = re.search(r"(http://127\.0\.0\.1:[0-9]+)/metrics", self.output)
        if address is None:
            return False
        try:
            with urllib.request.urlopen(f"{address[1]}/readyz", timeout=5) as answer:  # noqa: S310 (http)
                return json.load(answer)["reason"] == "writer"
        except (urllib.error.URLError, OSError):
            return False

    def all_processes(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def end(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end; returns the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(STOP_TIMEOUT_S)
        self._reading.join(STOP_TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def sales(self) -> int:
        """What a plain DuckDB shell sees, connected as the output of `up` says."""
        connection = duckdb.connect(config={"autoinstall_known_extensions": False})
        try:
            load_extensions(connection)
            for statement in (self.folder / "connect.sql").read_text().split(";\n"):
                if statement.strip() and not statement.lstrip().startswith(("INSTALL", "LOAD")):
                    connection.execute(statement)
            row = connection.execute("SELECT count(*) FROM fct_sales").fetchone()
            with pytest.raises(duckdb.Error, match="read-only"):
                connection.execute("CREATE TABLE mine (a INTEGER)")
        finally:
            connection.close()
        assert row is not None
        return row[0]


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A running `up`, shared by the tests that only look; the last test ends it."""
    up = Up(tmp_path_factory.mktemp("up") / "lake")
    try:
        yield up.until_writer()
    finally:
        if up.process.poll() is None:
            up.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def landed(up: Up) -> int:
    """Rows of fct_sales after `land` has put something into the folder's stack."""
    result = lotus_lake("land", "--dir", str(up.folder), "--files", str(FILES), "--rows", "5-20", "--json")
    assert result.returncode == 0, result.stderr
    expected = json.loads(result.stdout.splitlines()[-1])["fct_sales_rows_expected"]
    assert expected > 0
    wait_until(lambda: up.sales() == expected, timeout_s=LAND_TIMEOUT_S, what=f"{expected} sales")
    return expected


def land(*arguments: str) -> Result:
    """Runs `lotus-lake land` in this process."""
    return CliRunner().invoke(app, ["land", "--files", "1", *arguments])


def test_it_says_where_everything_is_and_no_secret(up: Up) -> None:
    ports = json.loads((up.folder / "ports.json").read_text())
    for name in ("weed.s3", "weed.filer", "nats.client", "postgres.server", "consumer.lake"):
        assert f"127.0.0.1:{ports[name]}" in up.output, name
    sql = (up.folder / "connect.sql").read_text()
    assert (up.folder / "connect.sql").stat().st_mode & 0o777 == 0o600
    secrets = re.findall(r"(?:SECRET|PASSWORD) '([^']{20,})'", sql)
    assert len(secrets) == 2
    secrets.append(json.loads((up.folder / "secret.json").read_text())["secret"])
    assert not any(secret in up.output for secret in secrets)


def test_it_listens_on_this_machine_only(up: Up) -> None:
    listening: set[str] = set()
    for process in up.all_processes():
        with suppress(psutil.NoSuchProcess):  # PostgreSQL's sessions come and go
            listening |= {
                connection.laddr.ip
                for connection in process.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            }
    assert listening == {"127.0.0.1"}


def test_a_second_up_on_the_folder_is_refused_and_the_first_goes_on(up: Up, landed: int) -> None:
    second = lotus_lake("up", "--dir", str(up.folder))
    assert second.returncode == 3
    assert f"in use by another supervisor (pid {up.process.pid})" in second.stderr
    assert "Traceback" not in second.stderr
    assert up.sales() == landed


def test_a_setting_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = lotus_lake("up", "--dir", str(tmp_path / "lake"), LOTUS_TYPO="1")
    assert done.returncode == 2
    assert "unknown settings LOTUS_TYPO" in done.stderr
    assert not (tmp_path / "lake").exists()


def test_what_land_is_told_wins_over_the_folder(up: Up) -> None:
    key = ("--access-key-id", "someone", "--secret-access-key", "else")
    refused = land("--dir", str(up.folder), *key)
    assert refused.exit_code == 3
    assert "InvalidAccessKeyId" in refused.stderr
    nobody = land("--dir", str(up.folder), "--endpoint", "http://127.0.0.1:9", *key)
    assert nobody.exit_code == 3
    assert "s3: " in nobody.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--endpoint", "http://127.0.0.1:9"),
        ("--access-key-id", "someone"),
        ("--endpoint", "http://127.0.0.1:9", "--secret-access-key", "s"),
    ],
)
def test_half_of_a_key_or_another_endpoint_without_one_is_wrong_usage(
    up: Up, options: tuple[str, ...]
) -> None:
    # Also where a folder could help out: its secret must not go to another endpoint.
    assert land("--dir", str(up.folder), *options).exit_code == 2


def test_land_without_a_running_stack_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "never", tmp_path):
        result = land("--dir", str(folder))
        assert result.exit_code == 3
        assert f"lotus-lake up --dir {folder}" in result.stderr
    monkeypatch.chdir(tmp_path)
    assert "lotus-lake up --dir .lotus" in land().stderr
    assert list(tmp_path.iterdir()) == []


def test_it_stops_cleanly_keeps_the_data_and_takes_over_after_a_kill(up: Up, landed: int) -> None:
    # Ctrl-C: all is stopped, nothing is left running.
    processes = up.all_processes()
    assert {"weed", "nats-server", "postgres"} <= {process.name() for process in processes}
    assert up.end(signal.SIGINT) == 0, up.output
    assert f"the data are in {up.folder}" in up.output
    assert all(is_gone(process) for process in processes)
    result = land("--dir", str(up.folder))
    assert result.exit_code == 3

    # The next `up` has the data. Killed, it can't stop its servers as it should.
    killed = Up(up.folder).until_writer()
    assert killed.sales() == landed
    processes = killed.all_processes()
    assert killed.end(signal.SIGKILL) == -signal.SIGKILL

    # The one after that ends what was left and goes on with the data. SIGTERM is as good as Ctrl-C.
    # Settings hold, but for those that say where the servers are.
    following = Up(up.folder, LOTUS_LOG_LEVEL="error", LOTUS_NATS_URL="nats://127.0.0.1:9")
    try:
        following.until_writer()
        assert '"started"' in up.output
        assert '"started"' not in following.output
        assert all(is_gone(process) for process in processes)
        assert following.sales() == landed
        processes = following.all_processes()
    finally:
        assert following.end(signal.SIGTERM) == 0, following.output
    assert all(is_gone(process) for process in processes)
