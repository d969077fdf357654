"""The lake's PostgreSQL catalog, asked directly: what DuckDB's own session can't be trusted to tell.

After a failed COMMIT only PostgreSQL knows whether the transaction was applied; DuckLake's error text does
not say it (tests/integration/test_foundation_commit.py cuts the reply at every byte).
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal, LiteralString

import psycopg
from psycopg import sql

from feeders.errors import LakeMisconfigured, LakeUnavailable

# TCP keepalives: a silent cut is noticed after 11 s with these, with the defaults not for hours.
KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    # Keepalives are silent while sent data are not acknowledged: milliseconds.
    "tcp_user_timeout": 15_000,
}
APPLICATION_PREFIX = "lotus-lake:"


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Where the DuckLake catalog lives: a schema of a PostgreSQL database, and the role that writes it."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    schema: str = "public"

    def connect(self, *, application: str, timeout_s: int = 5) -> psycopg.Connection[tuple[Any, ...]]:
        """Opens an autocommit connection with short TCP keepalives.

        Raises:
            LakeUnavailable: nobody answered.
            LakeMisconfigured: the login was refused.
        """
        try:
            return psycopg.connect(
                host=self.host,
                port=self.port,
                dbname=self.database,
                user=self.user,
                password=self.password,
                application_name=application,
                connect_timeout=timeout_s,
                autocommit=True,
                keepalives=KEEPALIVES["keepalives"],
                keepalives_idle=KEEPALIVES["keepalives_idle"],
                keepalives_interval=KEEPALIVES["keepalives_interval"],
                keepalives_count=KEEPALIVES["keepalives_count"],
                tcp_user_timeout=KEEPALIVES["tcp_user_timeout"],
            )
        except psycopg.OperationalError as error:
            raise classify_login(error) from error


_REFUSED = re.compile(
    r"password authentication failed|no password supplied|role .* does not exist|database .* does not exist"
    r"|no pg_hba\.conf entry|not permitted to log in|permission denied"
)


def classify_login(error: psycopg.OperationalError) -> LakeUnavailable | LakeMisconfigured:
    """Tells a catalog that refuses us (a person has to mend it) from one that does not answer (wait)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Is the server running")]  # libpq's own question
    text = told[-1] if told else type(error).__name__
    if _REFUSED.search(text):
        hint = "check LOTUS_CATALOG_HOST, _PORT, _DATABASE, _USER and _PASSWORD"
        return LakeMisconfigured(f"PostgreSQL refuses the login: {text}", hint=hint)
    return LakeUnavailable("postgresql", text)


def application_name(instance: str) -> str:
    """Names a catalog session of ours, so that another writer can find and end it (at most 63 bytes)."""
    return f"{APPLICATION_PREFIX}{instance}"[:63]


def in_schema(catalog: Catalog, query: LiteralString) -> sql.Composed:
    """Puts the catalog's schema, quoted, into a query at `{schema}`."""
    return sql.SQL(query).format(schema=sql.Identifier(catalog.schema))


CommitOutcome = Literal["committed", "not committed"]


def commit_outcome(catalog: Catalog, *, instance: str, batch_id: str, wait_s: float = 10) -> CommitOutcome:
    """Says whether the transaction that carried `batch_id` was applied.

    Ends this instance's catalog sessions first and waits until they are gone: a COMMIT that is still under
    way in a session whose client has lost it would otherwise be applied after the answer.

    Raises:
        LakeError, psycopg.Error: the catalog could not be asked; the outcome stays unknown.
        TimeoutError: a session of this instance outlived `wait_s` seconds.
    """
    with catalog.connect(application=f"{APPLICATION_PREFIX}outcome") as connection:
        end_sessions(connection, "application_name = %s", (application_name(instance),), wait_s=wait_s)
        row = connection.execute(
            in_schema(
                catalog,
                "SELECT 1 FROM {schema}.ducklake_snapshot_changes WHERE commit_extra_info = %s LIMIT 1",
            ),
            (batch_id,),
        ).fetchone()
    return "committed" if row else "not committed"


def end_other_writers(catalog: Catalog, *, instance: str, wait_s: float = 10) -> int:
    """Ends the catalog sessions of every other instance, so that a stopped writer's open transaction fails.

    Returns:
        How many sessions were ended.

    Raises:
        LakeUnavailable: the catalog did not answer, or a session outlived `wait_s` seconds.
        LakeMisconfigured: the login was refused.
    """
    try:
        with catalog.connect(application=f"{APPLICATION_PREFIX}takeover") as connection:
            return end_sessions(
                connection,
                "application_name LIKE %s AND application_name <> ALL(%s)",
                (f"{APPLICATION_PREFIX}w-%", [application_name(instance)]),
                wait_s=wait_s,
            )
    except (psycopg.OperationalError, TimeoutError) as error:
        raise LakeUnavailable("postgresql", str(error)) from error


def end_sessions(
    connection: psycopg.Connection[tuple[Any, ...]],
    condition: LiteralString,
    parameters: tuple[object, ...],
    *,
    wait_s: float,
) -> int:
    """Terminates the sessions of our own database and role that match, and waits until each has ended."""
    rows = connection.execute(
        sql.SQL(
            "SELECT pid, pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE datname = current_database()"
            " AND usename = current_user AND pid <> pg_backend_pid() AND "
        )
        + sql.SQL(condition),
        (int(wait_s * 1000), *parameters),
    ).fetchall()
    left = [pid for pid, ended in rows if not ended]
    if left:
        raise TimeoutError(
            f"PostgreSQL sessions {left} did not end within {wait_s:g} s of pg_terminate_backend"
        )
    return len(rows)


def newest_snapshot(connection: psycopg.Connection[tuple[Any, ...]], catalog: Catalog) -> int:
    """The newest snapshot's id; -1 before the lake exists."""
    try:
        row = connection.execute(
            in_schema(catalog, "SELECT max(snapshot_id) FROM {schema}.ducklake_snapshot")
        ).fetchone()
    except psycopg.errors.UndefinedTable:
        return -1
    return row[0] if row and isinstance(row[0], int) else -1


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot of the catalog. After a restore its id is given out again, with another time."""

    id: int
    made_at: str


def look_at_snapshots(catalog: Catalog, *, marked: int | None) -> tuple[Snapshot | None, Snapshot | None]:
    """Reads the newest snapshot, and the one with the id `marked`; None for what is not there.

    Raises:
        LakeUnavailable: the catalog did not answer.
        LakeMisconfigured: the login was refused.
    """
    try:
        with catalog.connect(application=f"{APPLICATION_PREFIX}watch") as connection:
            rows = connection.execute(
                in_schema(
                    catalog,
                    "SELECT snapshot_id, extract(epoch FROM snapshot_time)::text FROM {schema}.ducklake_snapshot"
                    " WHERE snapshot_id = (SELECT max(snapshot_id) FROM {schema}.ducklake_snapshot)"
                    " OR snapshot_id = %s ORDER BY snapshot_id",
                ),
                (marked,),
            ).fetchall()
    except psycopg.errors.UndefinedTable:
        return None, None
    except psycopg.Error as error:
        raise LakeUnavailable("postgresql", str(error)) from error
    found = [Snapshot(id=number, made_at=made_at) for number, made_at in rows]
    return (found[-1] if found else None), next((each for each in found if each.id == marked), None)
