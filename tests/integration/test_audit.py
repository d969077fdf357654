"""`lotus-lake audit`: what is complete is said to be, what was broken is named, and a repair makes it whole again."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from consumer.audit import Audit, Audited
from consumer.audit_scope import scope_of
from consumer.broker import Broker
from consumer.cli.audit import opened
from consumer.connections import loader_bucket
from consumer.definitions import load_definitions
from consumer.embedded.identity import Tenant
from consumer.errors import UnexpectedAnswer
from consumer.events import KeyEvent
from consumer.footers import FooterReader
from consumer.landing.generate import Landing
from feeders.auditing import Seen
from feeders.lake import LakeError
from feeders.parquet import Limits
from tests.asking import Document, command
from tests.bucketful import Bucketful, Mischief, removing_project
from tests.helpers import wait_until
from tests.landed import wait_until_loaded
from tests.service import (
    ORDERS,
    RunningService,
    announce,
    delete_all,
    keys_in_queue,
    order_key,
    orders,
    put,
    put_all,
    running_service,
    settings_of,
    with_broker,
)

TIMEOUT_S = 60.0
STAGING = "staging.stg_shopify__orders"
CUSTOMER = "raw/shopify/customers/2026_07_04_1_1.parquet"
STRANGER = "raw/unknown/stream/readme.txt"
LANDED = {
    order_key(name): orders(*range(10 * number, 10 * number + 3)) for number, name in enumerate("abcdefgh")
}
A, B, C, D, E, F, G, _ = LANDED
NEW, BROKEN, STRAY = order_key("new"), order_key("broken"), order_key("stray")
ADDED = f"INSERT INTO {STAGING} (id, _source_file) VALUES (?, ?)"


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is on its way here, but where a test says so."""
    monkeypatch.setattr("consumer.audit.PAUSES_S", (0.0,))


@pytest.fixture
def service(tenant: Tenant) -> Iterator[RunningService]:
    """A consumer that hears of nothing but what was there at its start: eight objects of orders and three others."""
    put_all(tenant, {**LANDED, CUSTOMER: orders(1), BROKEN: b"PAR1 and no more", STRANGER: b"hello"})
    with running_service(tenant, LOTUS_FILER_GRPC="") as service:
        service.wait_for_outcomes(loaded=9, poison=1, unrouted=1)
        yield service


def audit(tenant: Tenant, *arguments: str, **changes: str) -> tuple[int, Document]:
    """The exit status, and what --json prints, which is valid."""
    done = command(tenant, "audit", *arguments, "--json", **changes)
    assert done.stdout, done.output
    [line] = [line for line in done.stdout.splitlines() if line.startswith("{")]
    document = json.loads(line)
    validator().validate(document)
    return done.exit_code, document


def validator() -> Draft202012Validator:
    """The schema of docs/: what it does not name is refused."""
    path = Path(__file__).resolve().parents[2] / "docs" / "audit.schema.json"
    schema: dict[str, Any] = json.loads(path.read_text(), object_hook=closed)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def closed(part: dict[str, Any]) -> dict[str, Any]:
    if "properties" not in part:
        return part
    assert set(part["required"]) == set(part["properties"])
    # The counts are a part of each stream, which has two names more.
    return part if "rows_kept" in part["properties"] else {**part, "unevaluatedProperties": False}


def found(document: Document) -> dict[str | None, tuple[object, ...]]:
    """What is unexplained, by key: kind, rows in staging, rows expected, remedy."""
    fields = ("kind", "rows_in_staging", "rows_expected", "remedy")
    return {each["key"]: tuple(each[field] for field in fields) for each in document["unexplained"]}


def sums(document: Document, *names: str) -> tuple[object, ...]:
    return tuple(document["total"][name] for name in names)


def holds(document: Document) -> bool:
    """Both equations."""
    total = document["total"]
    objects = sum(total[name] for name in ("loaded", "dead", "pending", "missing"))
    return total["objects"] == objects and (
        total["rows_in_files"] + total["rows_kept"] == total["rows_in_staging"]
    )


def test_what_was_broken_is_named_and_repaired(service: RunningService) -> None:
    tenant = service.tenant
    status, document = audit(tenant)
    assert (status, document["complete"], document["unexplained"]) == (0, True, [])
    assert sums(document, "objects", "loaded", "dead", "pending") == (11, 9, 2, 0)
    assert sums(document, "rows_in_files", "rows_kept", "rows_in_staging") == (25, 0, 25)

    assert_shown_to_a_person(tenant)
    break_it(service)
    status, document = audit(tenant)
    assert status == 1
    assert found(document) == {
        None: ("rows", 1, 0, None),
        A: ("missing", 3, 0, "replay"),
        B: ("missing", 0, 0, "load"),
        C: ("missing", 3, 3, "load"),
        D: ("rows", 2, 3, "replay"),
        E: ("rows", 4, 3, None),
        G: ("rows", 2, 3, "replay"),
        NEW: ("missing", 0, 0, "load"),
        STRAY: ("rows", 1, 0, None),
    }
    assert document["kinds"] == {"missing": 4, "rows": 5}
    assert sums(document, "retained", "missing", "unexplained") == (1, 4, 9)
    assert_narrowed(tenant)

    with service.expecting(loaded=2, replaced=1, replayed=3):
        status, document = audit(tenant, "--repair")
        assert (status, document["repair"]["load"], document["repair"]["replay"]) == (1, 3, 3)
        assert document["repair"]["left"] == 3
    wait_until(lambda: not keys_in_queue(tenant), timeout_s=TIMEOUT_S, what="an empty queue")
    status, document = audit(tenant)
    assert (status, set(found(document))) == (1, {None, E, STRAY})
    # What a person has put there, a person takes away.
    by_hand(service, f"DELETE FROM {STAGING} WHERE _source_file = ? OR _source_file IS NULL", STRAY)
    assert command(tenant, "replay", E).exit_code == 0
    status, document = audit(tenant)
    assert (status, found(document)) == (0, {})
    assert holds(document)
    assert sums(document, "objects", "loaded", "retained", "rows_kept") == (11, 9, 1, 3)


def break_it(service: RunningService) -> None:
    """In every way that there is."""
    by_hand(service, "DELETE FROM meta.feeder_files WHERE key IN (?, ?)", A, B)
    by_hand(service, f"DELETE FROM {STAGING} WHERE _source_file = ?", B)
    service.put(C, orders(20, 21, 22, 23))
    by_hand(service, f"DELETE FROM {STAGING} WHERE id IN (30, 60)")
    # Only the object's own footer tells.
    by_hand(service, "UPDATE meta.feeder_files SET rows = 2 WHERE key = ?", G)
    by_hand(service, ADDED, 1001, E)
    by_hand(service, ADDED, 1002, STRAY)
    by_hand(service, ADDED, 1003, None)
    delete_all(service.tenant, [F])
    service.put(NEW, orders(90))


def by_hand(service: RunningService, sql: str, *parameters: object) -> None:
    """Changes the lake beside the service. Whose commit comes first makes the other one fail, and nothing is kept."""

    def change() -> bool:
        try:
            service.rows(sql, *parameters)
        except LakeError:
            return False
        return True

    wait_until(change, timeout_s=TIMEOUT_S, what="a commit beside the service's")


def assert_narrowed(tenant: Tenant) -> None:
    """A prefix, a stream, days, and rows that are not counted or not by footers."""
    assert found(audit(tenant, "--prefix", D)[1]) == {D: ("rows", 2, 3, "replay")}
    of_days = ("--from", "2026-07-04", "--to", "2026-07-06")
    status, document = audit(tenant, "--source", "shopify", "--stream", "customers", *of_days)
    assert (status, sums(document, "objects", "loaded", "rows_in_staging")) == (0, (1, 1, 1))
    of_day = audit(tenant, "--from", "2026-07-04", "--to", "2026-07-04", "--rows", "ledger")[1]
    # Rows without a source are of no day.
    assert set(found(of_day)) == {A, B, C, D, E, NEW, STRAY}
    assert sums(of_day, "objects", "dead") == (10, 1)
    document = audit(tenant, "--rows", "none", "--limit", "2")[1]
    assert (list(found(document)), document["truncated"]) == ([A, B], True)
    assert sums(document, "unexplained") == (4,)


def assert_shown_to_a_person(tenant: Tenant) -> None:
    """The same, for eyes."""
    done = command(tenant, "audit")
    heading, *lines = done.stdout.splitlines()
    assert heading.split()[:4] == ["stream", "objects", "loaded", "dead"]
    shown = {line.split("  ")[0]: line.split()[-10:] for line in lines[: lines.index("")]}
    assert shown["shopify.orders"] == ["9", "8", "1", "0", "0", "0", "0", "24", "0", "24"]
    assert shown["total"] == ["11", "9", "2", "0", "0", "0", "0", "25", "0", "25"]
    assert lines[-3:-1] == [
        "11 objects = 9 loaded + 2 dead + 0 pending",
        "25 rows in files + 0 kept = 25 in staging",
    ]
    assert lines[-1].startswith("complete: nothing is unexplained; ")
    assert done.exit_code == 0


def test_what_waits_is_explained_and_what_is_gone_is_not(tenant: Tenant, tmp_path: Path) -> None:
    """While no service works, and the orders' rows go with their objects."""
    keys = [order_key(f"{number:02}") for number in range(20)]
    put_all(tenant, {**{key: orders(number) for number, key in enumerate(keys)}, CUSTOMER: orders(1)})
    changes = {"LOTUS_FILER_GRPC": "", "LOTUS_PROJECT_DIR": str(removing_project(tmp_path))}
    with running_service(tenant, **changes) as service:
        service.wait_for_outcomes(loaded=21)
        changed_meanwhile(service, keys[10:15])
    put_all(tenant, {NEW: orders(90), keys[0]: orders(0, 100), STRANGER: b"hello"})
    delete_all(tenant, [keys[1], CUSTOMER])
    # An event that knows less than a listing is found by its key, those of a repair by their identity.
    assert announce(tenant, NEW)
    status, document = audit(tenant, "--repair", **changes)
    assert (status, set(found(document))) == (1, {keys[0], keys[1], STRANGER})
    assert found(document)[keys[1]] == ("gone", 1, 1, "remove")
    assert {name: document["repair"][name] for name in ("load", "remove", "left")} == {
        "load": 2,
        "remove": 1,
        "left": 0,
    }
    status, document = audit(tenant, **changes)
    assert (status, found(document)) == (0, {})
    assert holds(document)
    assert sums(document, "loaded", "pending", "leaving", "retained") == (18, 3, 1, 1)
    # Three of 19 are too many for anybody but a person.
    delete_all(tenant, keys[2:5])
    status, document = audit(tenant, "--repair", **changes)
    assert (status, document["repair"]["remove"]) == (1, 0)
    assert document["repair"]["held"] == {"shopify.orders": {"present": 20, "gone": 3, "listed": 17}}
    assert keys_in_queue(tenant, ORDERS) == 3


def test_nothing_is_called_unexplained_while_objects_land(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    landing = Bucketful(tenant=tenant, landing=Landing(seed=6, files=None, rows=(1, 20)))
    with running_service(tenant):
        with landing.landing_meanwhile(30, rate=25, mischief=Mischief(breaks=0.1)):
            wait_until(lambda: len(landing.etags) > 10, timeout_s=TIMEOUT_S, what="objects")
            status, document = audit(tenant)
            assert (status, found(document)) == (0, {}), document
        wait_until_loaded(landing)
        status, document = audit(tenant)
    assert (status, found(document), holds(document)) == (0, {}, True)
    assert sums(document, "objects", "dead") == (len(landing.etags), len(landing.broken))


def changed_meanwhile(service: RunningService, keys: list[str]) -> None:
    """What is overwritten, removed, added and put again between two of the audit's looks is explained."""
    overwritten, removed, again, late, arrived = keys
    tenant = service.tenant
    delete_all(tenant, [arrived])
    publish_removal(service, arrived)
    service.wait_for_outcomes(removed=1)
    bodies = {overwritten: orders(110, 111), again: orders(120), arrived: orders(14)}

    def after_the_listing() -> None:
        put_all(tenant, bodies)
        for key in bodies:
            announce(tenant, key)
        service.wait_for_outcomes(loaded=22, replaced=2)
        delete_all(tenant, [removed])
        publish_removal(service, removed)
        service.wait_for_outcomes(removed=2)

    def before_the_footers() -> None:
        put(tenant, late, orders(130, 131, 132))

    steps = {"objects listed": after_the_listing, "footers to read": before_the_footers}

    def tell(what: str, _: int) -> None:
        if (step := steps.pop(what, None)) is not None:
            thread = threading.Thread(target=step)  # the audit's event loop stands still meanwhile
            thread.start()
            thread.join()

    audited = asyncio.run(audited_by(service, tell))
    assert (audited.unexplained, steps) == (0, {})
    [count] = [each for each in audited.counts if each.stream == ORDERS]
    assert (count.objects, count.loaded, count.arrived, count.by_ledger) == (18, 18, 1, 1)
    assert count.rows_in_files + count.rows_kept == count.rows_in_staging
    # Back to twenty objects of one row each.
    put_all(tenant, {key: orders(1) for key in keys})
    for key in keys:
        announce(tenant, key)
    service.wait_for_outcomes(loaded=23, replaced=6)


def publish_removal(service: RunningService, key: str) -> None:
    """Tells the consumer of a removal."""
    event = KeyEvent(
        event="removed",
        bucket=service.tenant.landing_bucket,
        key=key,
        found_by="seaweedfs",
        sent_at=datetime.now(UTC),
    )
    assert with_broker(service.settings, lambda broker: broker.publish_key(event, ORDERS))


async def audited_by(service: RunningService, tell: Callable[[str, int], None]) -> Audited:
    """An audit that is held up at its steps."""
    settings = service.settings
    streams = load_definitions(settings).streams
    scope, looked_at = scope_of(
        streams,
        bucket=settings.landing_bucket,
        landing_prefix=settings.landing_prefix,
        prefix=None,
        stream=None,
        days=None,
    )
    async with opened(settings, streams, repair=False) as (broker, bucket, reader):
        audit = Audit(
            scope=scope,
            streams=streams,
            looked_at=looked_at,
            bucket=bucket,
            reader=reader,
            broker=broker,
            limits=settings.file_limits,
            tell=tell,
        )
        return await audit.run()


async def test_a_footer_is_that_of_the_version(tenant: Tenant) -> None:
    body = orders(1, 2, 3, note="x" * 100)
    key, other = order_key("a"), order_key("b")
    etag = await asyncio.to_thread(put, tenant, key, body)
    broken = await asyncio.to_thread(put, tenant, other, b"no Parquet at all, PAR1")
    settings = settings_of(tenant)
    async with loader_bucket(settings, settings.landing_bucket) as bucket:
        reader = FooterReader(bucket=bucket, limits=Limits())

        def seen(key: str, etag: str, size: int) -> Seen:
            return Seen(key=key, etag=etag, size_bytes=size, modified_s=None, stream=ORDERS)

        assert await reader.rows_of(seen(key, etag, len(body))) == (3, "read")
        reader.lengths[ORDERS] = 10  # too little for this footer: it takes a second request
        assert await reader.rows_of(seen(key, etag, len(body))) == (3, "read")
        assert await reader.rows_of(seen(key, "other", len(body))) == (None, "changed")
        assert await reader.rows_of(seen(order_key("none"), etag, len(body))) == (None, "changed")
        # The object became shorter than what is asked for.
        assert await reader.rows_of(seen(key, "other", 10 * len(body) + 2**20)) == (None, "changed")
        assert await reader.rows_of(seen(other, broken, 23)) == (None, "unreadable")
        part = await bucket.read_part(key, 0, 4)
        assert (part.etag, part.body) == (etag, b"PAR1")
        with pytest.raises(UnexpectedAnswer):
            await bucket.read_part(key, 2**20, 4)


def test_the_queue_is_listed_by_stream(tenant: Tenant) -> None:
    """Of one stream: its keys, its replays, and those of no stream; a message's payload by its subject."""
    for key in (order_key("a"), CUSTOMER, STRANGER):
        assert announce(tenant, key)

    async def look(broker: Broker) -> tuple[int, int, bytes | None, bytes | None]:
        everything = [name async for page in broker.queued(None) for name in page]
        of_stream = [name async for page in broker.queued(ORDERS) for name in page]
        subject = next(subject for subject, _ in of_stream if ".orders." in subject)
        payload = await broker.queued_payload(subject)
        return (
            len(everything),
            len(of_stream),
            payload,
            await broker.queued_payload(f"{subject[:-32]}{'0' * 32}"),
        )

    everything, of_stream, payload, none = with_broker(settings_of(tenant), look)
    assert (everything, of_stream, none) == (3, 2, None)
    assert payload is not None
    assert json.loads(payload)["key"] == order_key("a")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prefix", "elsewhere/"], "not below the landing prefix"),
        (["--from", "2026-07-04"], "--from and --to come together"),
        (["--from", "2026-07-05", "--to", "2026-07-04"], "is after --to"),
        (["--source", "shopify"], "--source and --stream come together"),
        (["--source", "shopify", "--stream", "order"], "there is no stream shopify.order"),
        (["--prefix", "raw/", "--source", "shopify", "--stream", "orders"], "don't go together"),
        (["--repair", "--rows", "none"], "has to know which rows are there"),
    ],
)
def test_options_that_say_nothing_are_refused(tenant: Tenant, arguments: list[str], says: str) -> None:
    done = command(tenant, "audit", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr


def test_a_namespace_without_a_queue_is_said(tenant: Tenant) -> None:
    done = command(tenant, "audit")
    assert done.exit_code == 3
    assert "NATS has no queue of the namespace" in done.stderr
