"""`lotus-lake check`: a line for each dependency and each fact that the design stands on, with the cure.

Each check only looks. Unreachable (wait, or start it) is told from wrong (a person has to change something).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import psycopg

from consumer.broker import Broker
from consumer.connections import broker_config, loader_bucket
from consumer.definitions import Definitions, load_definitions
from consumer.election import assert_exclusive, new_instance_name
from consumer.errors import BrokerMisconfigured, LotusError, Misconfigured, NeedsMending, Unavailable
from consumer.ingress.filer_tail import open_channel
from consumer.settings import Settings
from consumer.tailing import tail_config
from consumer.tasks import end
from feeders.apply import preview_ddl
from feeders.catalog import newest_snapshot
from feeders.ddl import DdlRefused
from feeders.errors import LakeError, LakeMisconfigured, LakeUnavailable
from feeders.lake import Lake
from feeders.model_check import check_models
from feeders.project import ProjectError

Status = Literal["ok", "note", "unreachable", "wrong"]

TIMEOUT_S = 15.0
MIN_PAYLOAD_BYTES = 8 * 1024**2
OLDEST_POSTGRES = 140_000
"""idle_session_timeout, on which the election stands, came with PostgreSQL 14."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: what was looked at, what was found, and the cure if it is not well."""

    subject: str
    status: Status
    found: str
    cure: str | None = None

    @property
    def is_bad(self) -> bool:
        """Whether the service could not run like this."""
        return self.status in ("unreachable", "wrong")


Check = Callable[[], Awaitable[Finding]]


async def run_checks(settings: Settings) -> AsyncIterator[Finding]:
    """Runs all checks one after the other, and gives each finding as it comes."""
    try:
        definitions = load_definitions(settings)
    except ProjectError as error:
        yield Finding(
            subject="project", status="wrong", found=str(error), cure="mend the file, or LOTUS_PROJECT_DIR"
        )
        return
    yield Finding(
        subject="project",
        status="ok",
        found=f"{len(definitions.streams)} streams, {len(definitions.models)} models and"
        f" {len(definitions.checks)} checks, from the {definitions.origin}",
    )
    for error in check_models(definitions.models, definitions.tables, definitions.checks):
        yield Finding(subject="project", status="wrong", found=str(error), cure="mend the file")
    checks: list[tuple[str, Check]] = [
        ("paths", lambda: check_paths(settings)),
        ("nats", lambda: check_nats(settings)),
        ("landing", lambda: check_landing(settings)),
        ("loader", lambda: check_loader(settings)),
        ("filer", lambda: check_filer(settings)),
        ("postgresql", lambda: check_postgres(settings)),
        ("writer's lock", lambda: check_lock(settings)),
        ("lake", lambda: check_lake(settings, definitions)),
    ]
    for subject, check in checks:
        yield await guarded(subject, check)


async def guarded(subject: str, check: Check) -> Finding:
    """Runs one check; whatever it meets becomes a finding."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await check()
    except NeedsMending as error:
        return Finding(subject=subject, status="wrong", found=str(error), cure=error.hint)
    except (Unavailable, LakeUnavailable) as error:
        cure = f"start {error.dependency}, or mend its address in the settings; `lotus-lake run` waits for it"
        return Finding(subject=subject, status="unreachable", found=str(error), cure=cure)
    except TimeoutError:
        found = f"no answer within {TIMEOUT_S:g} s"
        return Finding(
            subject=subject, status="unreachable", found=found, cure="is something silently dropping packets?"
        )
    except (Misconfigured, LakeMisconfigured) as error:
        return Finding(subject=subject, status="wrong", found=str(error), cure=error.hint)
    except (LotusError, LakeError, psycopg.Error) as error:
        found = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return Finding(subject=subject, status="wrong", found=found, cure="look into that server's log")
    except DdlRefused as error:
        return Finding(
            subject=subject, status="wrong", found=str(error), cure="mend ddl/ so that it fits the lake"
        )


async def check_paths(settings: Settings) -> Finding:
    """The settings have refused an overlap already; this line says what they are."""
    landing = f"s3://{settings.landing_bucket}/{settings.landing_prefix}"
    found = f"landing {landing} and lake {settings.lake_path} do not overlap"
    return Finding(subject="paths", status="ok", found=found)


async def check_nats(settings: Settings) -> Finding:
    """The server answers, has JetStream, and takes large enough messages."""
    broker = await Broker.connect(broker_config(settings, "check"))
    try:
        await broker.ensure()
        limit = broker.max_payload_bytes
        refused = await why_no_hints(broker)
    finally:
        await broker.close()
    if refused is not None:
        found = f"new keys are found by a look every two seconds, and not at once: {refused}"
        return Finding(subject="nats", status="note", found=found, cure=refused.hint)
    if limit < MIN_PAYLOAD_BYTES:
        found = f"max_payload is {limit} bytes; native SeaweedFS events of large objects have up to {MIN_PAYLOAD_BYTES}"
        return Finding(
            subject="nats", status="note", found=found, cure="max_payload: 8MB in the server's configuration"
        )
    return Finding(subject="nats", status="ok", found=f"JetStream is there, max_payload is {limit} bytes")


async def why_no_hints(broker: Broker) -> BrokerMisconfigured | None:
    """Says why we may not hear of new keys as they come; None if we may."""
    is_listening = asyncio.Event()
    listening = asyncio.create_task(broker.listen((), heard=lambda _, __: None, listening=is_listening.set))
    heard = asyncio.create_task(is_listening.wait())
    try:
        await asyncio.wait({listening, heard}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            listening.result()
    except BrokerMisconfigured as error:
        return error
    finally:
        await end([listening, heard])
    return None


async def check_landing(settings: Settings) -> Finding:
    """The loader can list the landing prefix."""
    async with loader_bucket(settings, settings.landing_bucket) as bucket:
        if not await bucket.exists():
            return Finding(
                subject="landing",
                status="wrong",
                found=f"there is no bucket {settings.landing_bucket}",
                cure="create it, or mend LOTUS_LANDING_BUCKET",
            )
        async for item in bucket.list(f"{settings.landing_prefix}/"):
            return Finding(subject="landing", status="ok", found=f"readable; there is {item.key}")
    return Finding(subject="landing", status="ok", found="readable; nothing has landed yet")


async def check_loader(settings: Settings) -> Finding:
    """The loader can't delete what the lake refers to."""
    name, _, prefix = settings.lake_path.removeprefix("s3://").partition("/")
    cure = "deny it s3:DeleteObject and s3:DeleteObjectVersion on the lake's bucket by a bucket policy"
    async with loader_bucket(settings, name) as bucket:
        if not await bucket.exists():
            found = f"there is no bucket {name}"
            return Finding(
                subject="loader", status="wrong", found=found, cure="create it, or mend LOTUS_LAKE_PATH"
            )
        if await bucket.may_delete(f"{prefix}lotus-lake-delete-probe"):
            status: Status = "note" if settings.loader_may_delete else "wrong"
            found = "the loader may delete in the lake: a lost answer to a COMMIT can lose committed files"
            return Finding(subject="loader", status=status, found=found, cure=cure)
    return Finding(subject="loader", status="ok", found="S3 refuses its deletes in the lake")


async def check_filer(settings: Settings) -> Finding:
    """The filer's gRPC port answers."""
    if not settings.filer_grpc:
        found = "LOTUS_FILER_GRPC is not set: no tail; new objects are found by the sweep only"
        return Finding(subject="filer", status="note", found=found)
    async with open_channel(tail_config(settings, settings.filer_grpc)) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), timeout=5)
        except TimeoutError:
            raise Unavailable("the filer", f"no gRPC at {settings.filer_grpc} within 5 s") from None
    return Finding(subject="filer", status="ok", found=f"gRPC answers at {settings.filer_grpc}")


async def check_postgres(settings: Settings) -> Finding:
    """The catalog answers, is new enough, and its role has the timeouts that free a zombie's locks."""

    def ask() -> tuple[int, str, str]:
        with settings.catalog.connect(application="lotus-lake:check") as connection:
            row = connection.execute(
                "SELECT current_setting('server_version_num')::int,"
                " current_setting('idle_in_transaction_session_timeout'), current_setting('lock_timeout')"
            ).fetchone()
        if row is None:
            raise Unavailable("postgresql", "it gave no answer to a SELECT of constants")
        return row[0], row[1], row[2]

    version, idle, lock = await asyncio.to_thread(ask)
    if version < OLDEST_POSTGRES:
        found = f"server_version_num is {version}"
        return Finding(subject="postgresql", status="wrong", found=found, cure="use PostgreSQL 14 or newer")
    unset = [
        name
        for name, value in (("idle_in_transaction_session_timeout", idle), ("lock_timeout", lock))
        if value == "0"
    ]
    if unset:
        return Finding(
            subject="postgresql",
            status="note",
            found=f"the role has no {' and no '.join(unset)}: a stopped writer can block the others",
            cure=f"ALTER ROLE … SET {unset[0]} = '10min' (longer than the slowest transaction)",
        )
    found = f"version {version // 10000}, idle_in_transaction_session_timeout {idle}, lock_timeout {lock}"
    return Finding(subject="postgresql", status="ok", found=found)


async def check_lock(settings: Settings) -> Finding:
    """Two connections exclude each other: not so behind PgBouncer in transaction mode."""
    await assert_exclusive(settings.catalog)
    return Finding(subject="writer's lock", status="ok", found="two connections exclude each other")


async def check_lake(settings: Settings, definitions: Definitions) -> Finding:
    """The lake opens, is ours, not newer than this program, and its tables fit the DDL."""

    def exists() -> bool:
        with settings.catalog.connect(application="lotus-lake:check") as connection:
            return newest_snapshot(connection, settings.catalog) >= 0

    if not await asyncio.to_thread(exists):
        found = (
            f"the catalog has no lake in schema {settings.catalog_schema} yet; `run` and `ddl apply` make it"
        )
        return Finding(subject="lake", status="note", found=found)

    def look() -> int:
        lake = Lake(settings.lake(new_instance_name("c")))
        try:
            return len(preview_ddl(lake, definitions.tables))
        finally:
            lake.close()

    changes = await asyncio.to_thread(look)
    if changes:
        found = f"it opens; {changes} changes of tables are due, which `run` and `ddl apply` make"
        return Finding(subject="lake", status="note", found=found)
    return Finding(subject="lake", status="ok", found="it opens, and its tables are what ddl/ says")
