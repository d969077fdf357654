"""`lotus-lake up`: the whole system in one folder, in the foreground."""

import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from consumer.app import Service
from consumer.cli.common import WRONG_ENVIRONMENT, errors_shown, fail, stderr
from consumer.cli.loop import run_on_uvloop
from consumer.embedded.errors import StackError
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from consumer.logs import configure_logs
from consumer.settings import given_settings, load_settings
from feeders.lake import split_endpoint

TENANT = "lake"
CONNECT_SQL = "connect.sql"
CONSUMER_ENV = "consumer.env"
LANDER_ENV = "lander.env"


def up(
    *,
    directory: Annotated[
        Path, typer.Option("--dir", help="Folder for data, ports, secrets and logs.")
    ] = Path(".lotus"),
) -> None:
    """Start SeaweedFS, NATS, PostgreSQL and the consumer on 127.0.0.1; Ctrl-C stops them, data stays.

    Settings from the environment hold, but for those that say where the servers are and with which secrets.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with errors_shown():
            given = given_settings()
        with errors_shown(), stderr.status(f"starting SeaweedFS, NATS and PostgreSQL in {directory}"):
            stack = Stack(directory)
            stack.start()
    except StackError as error:
        fail(str(error), WRONG_ENVIRONMENT)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    try:
        with errors_shown():
            tenant = stack.tenant(TENANT, landing_bucket="landing", lake_bucket="lake")
            for notice in stack.notices:
                typer.echo(f"note: {notice}", err=True)
            write_connect_sql(tenant, directory / CONNECT_SQL)
            write_environment({**given, **tenant.env()}, directory / CONSUMER_ENV)
            write_environment(lander_environment(tenant), directory / LANDER_ENV)
            typer.echo(describe(tenant, directory))
            run_on_uvloop(run_consumer(tenant, given))
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stack.stop()
    typer.echo(f"stopped; the data are in {directory}")


async def run_consumer(tenant: Tenant, given: Mapping[str, str]) -> None:
    """Runs the consumer of a tenant until SIGTERM or Ctrl-C, with the settings that a person gave.

    Where the servers are, and with which secrets, is the stack's word.
    """
    settings = load_settings({**given, **tenant.env()})
    service = Service(settings)
    configure_logs(settings.log_level, instance=service.instance)
    await service.run()


def describe(tenant: Tenant, directory: Path) -> str:
    """Says where everything is, and how to look inside with a plain DuckDB shell. Prints no secret."""
    endpoints, catalog = tenant.endpoints, tenant.catalog
    return f"""\
SeaweedFS S3  {endpoints.s3_url}   buckets {tenant.landing_bucket}, {tenant.lake_bucket}
filer         {endpoints.filer_http}
NATS          {endpoints.nats_url}   user {tenant.nats_user}
PostgreSQL    {catalog.host}:{catalog.port}   database {catalog.database}, role {catalog.user}
status        http://127.0.0.1:{tenant.http_port}/   (/status.json)
metrics       http://127.0.0.1:{tenant.http_port}/metrics   (/livez, /readyz)

Land something:        lotus-lake land --dir {directory} --files 20
Look with a DuckDB shell:  duckdb -init {directory / CONNECT_SQL}   (holds secrets; only you can read it)
Check it:                  set -a; . {directory / CONSUMER_ENV}; set +a; lotus-lake check
Land files of your own:    set -a; . {directory / LANDER_ENV}; set +a; aws s3 cp FILE s3://{tenant.landing_bucket}/raw/…
Ctrl-C stops all; the data stay.
"""


def write_connect_sql(tenant: Tenant, path: Path) -> None:
    """Writes what a plain DuckDB shell runs to see the lake, read-only. Mode 0600: it holds passwords."""
    catalog, loader = tenant.catalog, tenant.loader
    secure, address = split_endpoint(tenant.endpoints.s3_url)
    text = f"""\
INSTALL ducklake; INSTALL postgres; INSTALL httpfs;
LOAD ducklake; LOAD postgres; LOAD httpfs;
SET TimeZone = 'UTC';
CREATE SECRET lake_store (TYPE s3, KEY_ID {quote_literal(loader.access_key_id)},
    SECRET {quote_literal(loader.secret_access_key)}, ENDPOINT {quote_literal(address)}, REGION 'us-east-1',
    USE_SSL {"true" if secure else "false"}, URL_STYLE 'path');
CREATE SECRET lake_catalog (TYPE postgres, HOST {quote_literal(catalog.host)}, PORT {catalog.port},
    DATABASE {quote_literal(catalog.database)}, USER {quote_literal(catalog.user)},
    PASSWORD {quote_literal(catalog.password)});
CREATE SECRET lake (TYPE ducklake, METADATA_PATH '', DATA_PATH {quote_literal(tenant.lake_path)},
    METADATA_PARAMETERS MAP {{'TYPE': 'postgres', 'SECRET': 'lake_catalog'}});
ATTACH 'ducklake:lake' AS lakehouse (READ_ONLY);
USE lakehouse.main;
"""
    path.touch(mode=0o600)
    path.write_text(text)


def write_environment(variables: Mapping[str, str], path: Path) -> None:
    """Writes variables for a shell to read in. Mode 0600: they hold secrets."""
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items()))


def lander_environment(tenant: Tenant) -> dict[str, str]:
    """What any S3 client needs to write to the landing bucket as Airbyte does."""
    return {
        "AWS_ENDPOINT_URL": tenant.endpoints.s3_url,
        "AWS_ACCESS_KEY_ID": tenant.lander.access_key_id,
        "AWS_SECRET_ACCESS_KEY": tenant.lander.secret_access_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def quote_literal(text: str) -> str:
    """Writes text as an SQL literal, for the file that a person's shell runs; our own SQL binds its values."""
    return "'" + text.replace("'", "''") + "'"


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
