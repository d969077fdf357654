"""The lake: DuckDB with DuckLake attached as `lakehouse`. The only module that imports duckdb.

Errors of DuckDB are classified here, once, as feeders.errors names them.
"""

import re
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import psycopg

from feeders import fault
from feeders.catalog import KEEPALIVES, Catalog, application_name, commit_outcome
from feeders.errors import (
    LakeConflict,
    LakeError,
    LakeFenced,
    LakeMisconfigured,
    LakeUnavailable,
    StatementFailed,
)
from feeders.no_pandas import hide_missing_pandas

__all__ = [
    "Engine",
    "Lake",
    "LakeConfig",
    "LakeConflict",
    "LakeError",
    "LakeFenced",
    "LakeMisconfigured",
    "LakeUnavailable",
    "ObjectStore",
    "Row",
    "Scratch",
    "StatementFailed",
    "Transaction",
    "Watermark",
    "describe_create_table",
]

hide_missing_pandas()

EXTENSIONS = ("httpfs", "postgres_scanner", "ducklake")
CATALOG_NAME = "lakehouse"
SCHEMAS = ("staging", "main", "meta")

Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """The S3 endpoint and the identity with which DuckDB reads and writes the lake's files."""

    endpoint: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str = "us-east-1"


@dataclass(frozen=True, kw_only=True)
class LakeConfig:
    """How to open the lake.

    Attributes:
        instance: names this process in PostgreSQL's list of sessions.
        may_create: make the lake if the catalog has none. False where one is known to be: in the middle of a
            restore the catalog is empty, and a new lake would be in the way of the old one.
        at_snapshot: read the lake as it was in this snapshot, and write nothing; None is as it is.
        read_only: DuckDB refuses every change of the lake; temporary tables are no part of it.
    """

    catalog: Catalog
    store: ObjectStore
    data_path: str
    instance: str
    at_snapshot: int | None = None
    read_only: bool = False
    memory_limit_bytes: int = 384 * 1024**2
    threads: int = 2
    temp_directory: Path | None = None
    temp_max_bytes: int = 8 * 1024**3
    may_create: bool = True


class Watermark:
    """The newest snapshot that this process's transactions have seen. From any thread.

    Of a catalog that was restored from a dump, or lost its last commits in a failover, the newest snapshot is an
    older one. An open DuckDB instance does not notice: what it has cached is kept under numbers that are given out
    again. So each transaction asks, and a lake that went back is opened anew.
    """

    def __init__(self, went_back: Callable[[int, int], None] = lambda _, __: None) -> None:
        """Take whom to tell, from the lake's thread: the newest snapshot, and the one that was seen before."""
        self._went_back = went_back
        self.newest = -1

    def require(self, found: int) -> None:
        """Notes the newest snapshot as a transaction sees it.

        Raises:
            LakeUnavailable: it is below what was seen before. The next transaction begins from it.
        """
        seen, self.newest = self.newest, found
        if found < seen:
            self._went_back(found, seen)
            raise LakeUnavailable(
                "lake", f"the catalog went back to snapshot {found}, {seen} was seen: it was restored"
            )

    def saw(self, snapshot: int) -> None:
        """Notes a snapshot that a transaction has made."""
        self.newest = max(self.newest, snapshot)


_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
# From the first quote to the last: a value may hold quotes itself. An apostrophe within a word opens none.
_FROM_FIRST_QUOTE = re.compile(r"(?<!\w)['\"].*['\"]|(?<!\w)['\"].*", re.DOTALL)
_NUMBER = re.compile(r"DECIMAL\(\d+, ?\d+\)|(?<!\w)[-+]?\d[\w.:+-]*")
_ECHO = re.compile(r"\n\nLINE \d+: [^\n]*\n *\^\s*\Z")


def without_quoted(text: str) -> str:
    """Strips the echo of the statement, everything from the first quote to the last, and further lines."""
    return _FROM_FIRST_QUOTE.sub("'…'", _ECHO.sub("", text)).strip().split("\n", 1)[0][:300]


def without_values(text: str) -> str:
    """Strips what may be row values from an error text: all that `without_quoted` does, and numbers."""
    return _NUMBER.sub(
        lambda found: found[0] if found[0].startswith("DECIMAL") else "…", without_quoted(text)
    )


def load_extensions(connection: duckdb.DuckDBPyConnection) -> None:
    """Loads the extensions from their wheels; nothing is ever downloaded.

    Raises:
        LakeMisconfigured: an extension's wheel is missing or made for another DuckDB version.
    """
    for name in EXTENSIONS:
        package = f"duckdb_extension_{name}"
        wheel = f"duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}"
        hint = f"install {wheel} (the version must equal DuckDB's, {duckdb.__version__})"
        try:
            file = files(package) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        except ModuleNotFoundError as error:
            raise LakeMisconfigured(f"DuckDB's extension {name} is not installed", hint=hint) from error
        if not file.is_file():
            raise LakeMisconfigured(
                f"no {name} extension for DuckDB {duckdb.__version__} in {package}", hint=hint
            )
        connection.load_extension(str(file))


def memory_connection(
    config: LakeConfig | None = None, *, check_signatures: bool = True
) -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own in memory: UTC, nothing downloaded, no extension loaded yet.

    With `check_signatures` it refuses extensions that DuckDB's makers did not sign.
    """
    options: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "allow_unsigned_extensions": not check_signatures,
    }
    if config is not None:
        options["memory_limit"] = f"{config.memory_limit_bytes}B"
        options["threads"] = config.threads
        if config.temp_directory is not None:
            options["temp_directory"] = str(config.temp_directory)
            # A file that takes more is over its memory, and alone; a full disk would stop everybody.
            options["max_temp_directory_size"] = f"{config.temp_max_bytes}B"
    connection = duckdb.connect(":memory:", config=options)
    connection.execute("SET TimeZone = 'UTC'")
    # What takes longer than two seconds would draw one among the log lines, no matter that nobody watches.
    connection.execute("SET enable_progress_bar = false")
    return connection


@lru_cache(maxsize=1024)
def describe_create_table(create_table: str) -> tuple[tuple[str, str], ...]:
    """Says which columns a CREATE TABLE statement makes, with their types as DuckDB prints them.

    Raises:
        StatementFailed: the statement is not one that DuckDB can run on an empty database.
    """
    # One empty database for all: to open one takes longer than all the rest.
    connection = _empty_database().cursor()
    try:
        connection.execute("BEGIN")
        connection.execute(create_table)
        return tuple(
            connection.execute(
                "SELECT column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
            ).fetchall()
        )
    except duckdb.Error as error:
        raise StatementFailed(type(error).__name__, str(error)) from error
    finally:
        connection.close()  # which rolls back


@cache
def _empty_database() -> duckdb.DuckDBPyConnection:
    return _database_with_schemas()


def _database_with_schemas() -> duckdb.DuckDBPyConnection:
    connection = memory_connection()
    for schema in SCHEMAS:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    return connection


class Scratch:
    """An empty database in memory with the lake's schemas, to bind SQL without a lake. Close it."""

    def __init__(self) -> None:
        self._connection = _database_with_schemas()

    def query(self, sql: str) -> list[Row]:
        """Runs one statement.

        Raises:
            StatementFailed: with DuckDB's whole text: there are no rows here that it could quote.
        """
        try:
            return self._connection.execute(sql).fetchall()
        except duckdb.Error as error:
            raise StatementFailed(type(error).__name__, str(error)) from error

    def close(self) -> None:
        """Ends the database."""
        self._connection.close()


class Transaction:
    """An open transaction. All statements go through it; parameters are bound, never formatted in."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, batch_id: str) -> None:
        self._connection = connection
        self.batch_id = batch_id

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Runs one statement and returns its rows."""
        return run(self._connection, sql, parameters)

    def change(self, sql: str, parameters: Sequence[object] = ()) -> int:
        """Runs one INSERT, UPDATE or DELETE and returns how many rows it touched."""
        rows = run(self._connection, sql, parameters)
        return int(rows[0][0]) if rows else 0


_SIGNATURES_CHECKED = threading.Event()
"""Set once DuckDB has loaded the extensions in this process and found them signed."""


class Engine:
    """A DuckDB instance with its extensions and no lake yet: most of the time that opening a lake takes.

    Raises:
        LakeMisconfigured: an extension can't be loaded.
    """

    def __init__(self, config: LakeConfig) -> None:
        """Take the limits of the config; nothing is asked of its servers."""
        self._config = config
        self._connection: duckdb.DuckDBPyConnection | None = self._start()

    def take(self) -> duckdb.DuckDBPyConnection:
        """Gives the instance away; whoever takes another one waits for a new one."""
        connection, self._connection = self._connection, None
        return connection or self._start()

    def close(self) -> None:
        """Ends the instance, unless it was given away."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _start(self) -> duckdb.DuckDBPyConnection:
        # Each instance would read all 100 MB of them for their signatures again, 0.5 s of a CPU. Once is enough:
        # whoever can change the files while this process runs can change this program too.
        connection = memory_connection(self._config, check_signatures=not _SIGNATURES_CHECKED.is_set())
        try:
            load_extensions(connection)
            _SIGNATURES_CHECKED.set()
        except duckdb.Error as error:
            connection.close()
            raise classify(error) from error
        except LakeError:
            connection.close()
            raise
        return connection


class Lake:
    """One DuckDB instance with the lake attached. Owned by one thread.

    After a COMMIT or a ROLLBACK that raised, the state of the instance is unknown: it is thrown away, and the
    next statement opens a new one.
    """

    def __init__(
        self, config: LakeConfig, watermark: Watermark | None = None, engine: Engine | None = None
    ) -> None:
        """Take where the lake is, who keeps the watermark, and an instance of DuckDB that was started before."""
        self.config = config
        self._watermark = watermark
        self._connection: duckdb.DuckDBPyConnection | None = self._open(engine or Engine(config))

    def _open(self, engine: Engine) -> duckdb.DuckDBPyConnection:
        connection = engine.take()
        try:
            attach(connection, self.config)
        except duckdb.Error as error:
            connection.close()
            raise why_not_opened(error, self.config.catalog) from error
        return connection

    def _opened(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            self._connection = self._open(Engine(self.config))
        return self._connection

    def close(self) -> None:
        """Closes the DuckDB instance and its sessions in the catalog."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        """Makes the statement that is running, if one is, raise. Any thread."""
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Reads outside of a transaction."""
        return run(self._opened(), sql, parameters)

    @contextmanager
    def transaction(self, message: str) -> Generator[Transaction]:
        """Runs the block in one DuckLake transaction and commits it.

        Each commit carries a batch id of its own, so that after an error at COMMIT PostgreSQL can be asked
        whether it was applied; if it was, the block counts as done.

        Raises:
            LakeConflict, LakeUnavailable, StatementFailed: nothing was committed; of LakeUnavailable at COMMIT
                that is not certain, so whoever tries again reads cursor and ledger again.
        """
        connection = self._opened()
        transaction = Transaction(connection, str(uuid4()))
        transaction.query("BEGIN TRANSACTION")
        try:
            transaction.query(
                f"CALL {CATALOG_NAME}.set_commit_message(?, ?, extra_info => ?)",
                ("lotus-lake", message, transaction.batch_id),
            )
            began_at = self._require_no_step_back(transaction)
            yield transaction
        except BaseException:
            self._roll_back(connection)
            raise
        fault.point("committing")
        self._commit(connection, transaction.batch_id)
        if self._watermark is not None:
            self._watermark.saw(self._last_committed(began_at))
        fault.point("committed")

    def _require_no_step_back(self, transaction: Transaction) -> int:
        """Asks for the newest snapshot, if anybody keeps a watermark. Raises LakeUnavailable."""
        if self._watermark is None:
            return -1
        found = int(transaction.query("SELECT id FROM lakehouse.current_snapshot()")[0][0])
        self._watermark.require(found)
        return found

    def _last_committed(self, began_at: int) -> int:
        """The snapshot that the last transaction made; the one before it if it changed nothing."""
        if self._connection is None:
            # Its COMMIT was applied and the answer lost: without retries its snapshot is the one that comes next.
            return began_at + 1
        try:
            rows = self.query("SELECT id FROM lakehouse.last_committed_snapshot()")
        except LakeError:
            # It is committed, whatever this one says.
            return began_at
        return int(rows[0][0]) if rows and rows[0][0] is not None else began_at

    def _roll_back(self, connection: duckdb.DuckDBPyConnection) -> None:
        try:
            connection.execute("ROLLBACK")
        except _RAISED:
            # It may raise although it rolled back, as when the loader must not remove the files it wrote.
            self.close()

    def _commit(self, connection: duckdb.DuckDBPyConnection, batch_id: str) -> None:
        try:
            connection.execute("COMMIT")
        except _RAISED as error:
            self.close()
            failure = named(error)
            try:
                outcome = commit_outcome(
                    self.config.catalog, instance=self.config.instance, batch_id=batch_id
                )
            except (psycopg.Error, LakeError, TimeoutError) as unknown:
                raise LakeUnavailable(
                    "postgresql", f"the outcome of a COMMIT is unknown: {unknown}"
                ) from error
            if outcome == "committed":
                return
            if isinstance(failure, StatementFailed):
                # Its statements ran: only another commit meanwhile can fail it. The text hides that, since
                # DuckLake then fails to remove the files that it wrote, which the loader must not.
                raise LakeConflict(
                    f"nothing was committed, most likely for another commit: {failure}"
                ) from error
            raise failure from error


def attach(connection: duckdb.DuckDBPyConnection, config: LakeConfig) -> None:
    """Attaches the lake as `lakehouse` with the settings that the design depends on, and uses it."""
    catalog, store = config.catalog, config.store
    # DuckLake's own retry checks conflicts in snapshot history, which expiry removes: a retry is ours.
    connection.execute("SET ducklake_max_retry_count = 0")
    secure, address = split_endpoint(store.endpoint)
    connection.execute(
        "CREATE OR REPLACE SECRET lake_store (TYPE s3, KEY_ID ?, SECRET ?, ENDPOINT ?, REGION ?, USE_SSL ?,"
        " URL_STYLE 'path')",
        (store.access_key_id, store.secret_access_key, address, store.region, secure),
    )
    connection.execute(
        "CREATE OR REPLACE SECRET lake_catalog (TYPE postgres, HOST ?, PORT ?, DATABASE ?, USER ?, PASSWORD ?)",
        (catalog.host, catalog.port, catalog.database, catalog.user, catalog.password),
    )
    session = f"application_name={application_name(config.instance)} connect_timeout=5 " + " ".join(
        f"{name}={value}" for name, value in KEEPALIVES.items()
    )
    connection.execute(
        "CREATE OR REPLACE SECRET lake (TYPE ducklake, METADATA_PATH ?, DATA_PATH ?, METADATA_SCHEMA ?,"
        " METADATA_PARAMETERS MAP {'TYPE': 'postgres', 'SECRET': 'lake_catalog'})",
        (session, config.data_path, catalog.schema),
    )
    may_create = "true" if config.may_create else "false"
    as_of = "" if config.at_snapshot is None else f", SNAPSHOT_VERSION {config.at_snapshot:d}"
    read_only = ", READ_ONLY" if config.read_only else ""
    connection.execute(
        f"ATTACH 'ducklake:lake' AS {CATALOG_NAME}"
        f" (DATA_INLINING_ROW_LIMIT 0, CREATE_IF_NOT_EXISTS {may_create}{as_of}{read_only})"
    )
    connection.execute(f"USE {CATALOG_NAME}.main")


def split_endpoint(endpoint: str) -> tuple[bool, str]:
    """Splits an endpoint URL into (https?, host:port), the form that DuckDB wants."""
    scheme, _, address = endpoint.rpartition("://")
    return scheme != "http", address.rstrip("/")


def run(connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[object]) -> list[Row]:
    """Runs one statement, its errors classified."""
    try:
        return connection.execute(sql, parameters).fetchall()
    except _RAISED as error:
        raise named(error) from error


# What a statement raises. A message that quotes bytes of a file which are no text comes as a UnicodeDecodeError.
_RAISED = (duckdb.Error, UnicodeDecodeError, MemoryError)


def named(error: duckdb.Error | UnicodeDecodeError | MemoryError) -> LakeError:
    """Names the next move for whatever a statement raised."""
    match error:
        case UnicodeDecodeError():
            text = bytes(error.object).decode("utf-8", "replace")
            return StatementFailed("InvalidInputException", without_values(text))
        case MemoryError():
            return StatementFailed("OutOfMemoryException", "DuckDB got no memory from the system")
        case _:
            return classify(error)


def why_not_opened(error: duckdb.Error, catalog: Catalog) -> LakeError:
    """Names the next move for an ATTACH that failed; of a login that was refused only PostgreSQL says it."""
    if _NO_LAKE.search(str(error)):
        return LakeUnavailable("lake", "the catalog has no lake; there was one before: is it being restored?")
    found = classify(error)
    if isinstance(found, LakeUnavailable) and found.dependency == "postgresql":
        try:
            catalog.connect(application=application_name("attach")).close()
        except LakeError as reason:
            return reason
    return found


_NO_LAKE = re.compile("creating a new DuckLake is explicitly disabled")
_ABOUT_DATA = (
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.InvalidTypeException,
    duckdb.ParserException,
    duckdb.ConstraintException,
)
_ABOUT_SQL = (duckdb.BinderException, duckdb.CatalogException)
"""Raised before any row is read: the names that these quote are what a person needs."""
_CONFLICT = re.compile(
    r"transaction conflict|write-write conflict|conflict on (update|tuple|commit)"
    # All commits race for the next snapshot's id; PostgreSQL tells the one that comes second.
    r"|duplicate key value violates unique constraint|could not serialize access",
    re.IGNORECASE,
)
_POSTGRES = re.compile(
    r"libpq|connection to server|server closed the connection|terminating connection"
    r"|could not connect(?! to server error for HTTP)"
    r"|no connection to the server|connection (is )?(closed|lost|reset)|SSL SYSCALL|the database system is"
    r"|idle-in-transaction timeout|could not receive data|could not send data|too many clients"
    # What PostgreSQL itself answers: a timeout, no more connections, a right that was taken away.
    r"|\b(ERROR|FATAL):  ",
    re.IGNORECASE,
)
_DISK = re.compile(
    r"No space left|Too many open files|Input/output error|Read-only file system|Failed to create directory"
)
_STORE = re.compile(r"\bHTTP\b|s3://|https?://|Could not establish connection|curl", re.IGNORECASE)

_NO_ROOM = re.compile(r"HTTP (?:500|507)\b.*\bHTTP (?:PUT|POST)\b", re.DOTALL)
_FULL = " (if that stays so: is the lake's bucket over its quota or read-only, or a disk of SeaweedFS full?)"
"""SeaweedFS answers a PUT into a full bucket by InternalError, and says no more."""


def classify(error: duckdb.Error) -> LakeError:
    """Names the next move for an error of DuckDB."""
    # Values of rows stand in quotes: what they say must not decide.
    text, shown = _QUOTED.sub("'…'", str(error)), without_quoted(str(error))
    if isinstance(error, _ABOUT_DATA):
        return StatementFailed(type(error).__name__, without_values(str(error)))
    if _CONFLICT.search(text):
        return LakeConflict(shown)
    if _POSTGRES.search(text):
        return LakeUnavailable("postgresql", shown)
    if isinstance(error, duckdb.HTTPException) or (
        isinstance(error, duckdb.IOException) and _STORE.search(text)
    ):
        return LakeUnavailable("s3", shown + (_FULL if _NO_ROOM.search(text) else ""))
    if _DISK.search(text):
        return LakeUnavailable("disk", shown)
    if isinstance(error, duckdb.ConnectionException):
        return LakeUnavailable("postgresql", shown)
    if isinstance(error, _ABOUT_SQL):
        return StatementFailed(type(error).__name__, str(error).strip().split("\n", 1)[0][:300])
    return StatementFailed(type(error).__name__, without_values(str(error)))
