"""The key event: strict reading, one identity for one object version, reversible subjects."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from consumer.errors import BadKeyEvent
from consumer.events import KeyEvent, Replay
from consumer.subjects import (
    Lane,
    check_namespace,
    decode_token,
    encode_token,
    key_subject,
    parse_key_subject,
    stream_filter,
    subscription_name,
)
from feeders.streams import StreamId
from tests.helpers import fuzzed

EVENT = KeyEvent(
    event="created",
    bucket="landing",
    key="raw/shopify/orders/part 1+é.parquet",
    etag="cabe45dcc9ae5b66ba86600cca6b8ba8",
    size=1000,
    mtime=1795370112.25,
    version_id=None,
    found_by="filer_tail",
    sent_at=datetime(2026, 11, 22, 17, 55, 12, 149000, tzinfo=UTC),
)

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200)
_events = st.builds(
    KeyEvent,
    event=st.sampled_from(["created", "removed"]),
    bucket=_text.filter(lambda text: "/" not in text and len(text.encode()) <= 255),
    key=_text.filter(lambda text: len(text.encode()) <= 1024),
    etag=st.none() | _text,
    size=st.none() | st.integers(0, 2**63 - 1),
    mtime=st.none() | st.floats(0, 253_402_300_799),
    version_id=st.none() | _text,
    found_by=st.sampled_from(["sweep", "replay"]),
    sent_at=st.datetimes(timezones=st.just(UTC)),
    replay=st.none() | st.builds(Replay, by=_text, reason=_text),
)


@given(_events)
def test_what_is_written_is_read(event: KeyEvent) -> None:
    assert KeyEvent.from_json(event.to_json()) == event


def test_the_document_is_the_frozen_form() -> None:
    assert json.loads(EVENT.to_json()) == {
        "schema": "lotus-lake.key/1",
        "event": "created",
        "bucket": "landing",
        "key": "raw/shopify/orders/part 1+é.parquet",
        "etag": "cabe45dcc9ae5b66ba86600cca6b8ba8",
        "size": 1000,
        "mtime": 1795370112.25,
        "version_id": None,
        "found_by": "filer_tail",
        "sent_at": "2026-11-22T17:55:12.149000Z",
    }


SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "key-event.schema.json").read_text())


@given(_events)
def test_the_published_schema_takes_what_is_written(event: KeyEvent) -> None:
    Draft202012Validator(SCHEMA).validate(json.loads(event.to_json()))


def _changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(EVENT.to_json()), **fields}).encode()


@pytest.mark.parametrize(
    ("payload", "names"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON at character"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"[]", "expected a JSON object, found a list"),
        (b"[" * 60_000, "not JSON"),
        (b'{"a":1,"a":2}', "stands twice"),
        (b" " * 65_537, "65,537 bytes, expected at most 65,536"),
        (b"{}", "schema: expected \"lotus-lake.key/1\", found 'none'"),
        (b'{"schema":"lotus-lake.key/1"}', "event: missing"),
        (b'{"size":' + b"9" * 5000 + b"}", "not JSON"),
        (_changed(schema="lotus-lake.key/2"), "schema"),
        (_changed(colour="red"), "'colour': unknown field"),
        (_changed(event="touched"), "event: expected"),
        (_changed(bucket=""), "bucket: expected 1 to 255 bytes"),
        (_changed(bucket="a/b"), 'bucket: a bucket name holds no "/"'),
        (_changed(bucket=None), "bucket: expected a text, found a NoneType"),
        (_changed(key="k" * 1025), "key: expected 1 to 1,024 bytes of UTF-8, found 1,025"),
        (_changed(key="é" * 513), "key: expected 1 to 1,024 bytes of UTF-8, found 1,026"),
        (_changed(key="a\0b"), "key: holds a NUL"),
        (_changed(key="\ud800"), "key: is not valid UTF-8"),
        (_changed(etag=5), "etag: expected a text, found 5"),
        (_changed(etag=""), "etag: expected 1 to"),
        (_changed(size=-1), "size: expected bytes"),
        (_changed(size=True), "size: expected a whole number or null, found True"),
        (_changed(size=1.0), "size: expected a whole number or null, found a float"),
        (_changed(mtime="now"), "mtime: expected seconds"),
        (_changed(mtime=10**400), "mtime: expected seconds"),
        (_changed(mtime=float("nan")), "NaN is not JSON"),
        (_changed(mtime=-1), "mtime: expected seconds"),
        (_changed(sent_at="2026-11-22T17:55:12"), "sent_at: expected an RFC 3339 time"),
        (_changed(sent_at="2026-11-31T17:55:12Z"), "sent_at: no such time"),
        (_changed(sent_at="20261122T175512Z"), "sent_at: expected an RFC 3339 time"),
        (_changed(found_by=""), "found_by"),
        (_changed(replay=None), "replay: expected an object"),
        (_changed(replay={"by": "ann"}), "replay: expected exactly"),
        (_changed(replay={"by": "ann", "reason": 3}), "reason: expected a text"),
    ],
)
def test_anything_else_is_refused_in_one_short_line(payload: bytes, names: str) -> None:
    with pytest.raises(BadKeyEvent) as refusal:
        KeyEvent.from_json(payload)
    assert names in str(refusal.value)
    assert len(str(refusal.value)) < 200
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"schema": "lotus-lake.key/2"},
        {"colour": "red"},
        {"event": "touched"},
        {"bucket": "a/b"},
        {"key": "k" * 1025},
        {"key": "a\0b"},
        {"etag": ""},
        {"size": -1},
        {"size": True},
        {"mtime": "now"},
        {"mtime": 1e13},
        {"sent_at": "2026-11-22T17:55:12"},
        {"found_by": ""},
        {"replay": None},
        {"replay": {"by": "ann"}},
    ],
)
def test_the_published_schema_refuses_what_we_refuse(fields: dict[str, object]) -> None:
    payload = _changed(**fields)
    with pytest.raises(BadKeyEvent):
        KeyEvent.from_json(payload)
    assert not Draft202012Validator(SCHEMA).is_valid(json.loads(payload))


def test_a_huge_value_is_not_quoted() -> None:
    with pytest.raises(BadKeyEvent) as refusal:
        KeyEvent.from_json(_changed(event="x" * 50_000))
    assert len(str(refusal.value)) < 200


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(BadKeyEvent):
        KeyEvent.from_json(payload)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-22T17:55:12Z", datetime(2026, 11, 22, 17, 55, 12, tzinfo=UTC)),
        ("2026-11-22t17:55:12.1z", datetime(2026, 11, 22, 17, 55, 12, 100_000, tzinfo=UTC)),
        ("2026-11-22T18:55:12.123456789+01:00", datetime(2026, 11, 22, 17, 55, 12, 123_456, tzinfo=UTC)),
    ],
)
def test_times_of_other_writers(written: str, read: datetime) -> None:
    assert KeyEvent.from_json(_changed(sent_at=written)).sent_at == read


def test_the_identity_is_of_the_object_version_only() -> None:
    same = [
        replace(EVENT, found_by="sweep"),
        replace(EVENT, sent_at=datetime(2027, 1, 1, tzinfo=UTC)),
        replace(EVENT, mtime=1795370112.0),  # S3 listings have whole seconds
        replace(EVENT, mtime=1795370112.999),
    ]
    others = [
        replace(EVENT, event="removed"),
        replace(EVENT, bucket="landin"),
        replace(EVENT, key="graw/shopify/orders/part 1+é.parquet"),
        replace(EVENT, etag=None),
        replace(EVENT, size=None),
        replace(EVENT, size=0),
        replace(EVENT, mtime=None),
        replace(EVENT, mtime=1795370113.0),
        replace(EVENT, version_id="v1"),
    ]
    assert {event.identity() for event in same} == {EVENT.identity()}
    assert len({event.identity() for event in [EVENT, *others]}) == len(others) + 1


def test_a_replay_is_no_repeat_of_the_event_and_the_same_whoever_asks() -> None:
    asked = [replace(EVENT, replay=Replay(by=by, reason=by)) for by in ("a", "b")]
    assert len({event.identity() for event in asked}) == 1
    assert asked[0].identity() not in {EVENT.identity(), replace(EVENT, event="removed").identity()}


def test_fields_never_run_into_each_other() -> None:
    one = replace(EVENT, version_id="ab", etag=None)
    other = replace(EVENT, version_id=None, etag="ab")
    assert one.identity() != other.identity()


@given(_events, _events)
def test_two_versions_have_two_identities(one: KeyEvent, other: KeyEvent) -> None:
    def fields(event: KeyEvent) -> tuple[object, ...]:
        whole = None if event.mtime is None else int(event.mtime)
        again = event.replay is not None
        return (event.event, event.bucket, event.key, event.etag, event.size, whole, event.version_id, again)

    assert (fields(one) == fields(other)) == (one.identity() == other.identity())


@given(_text, _text)
def test_a_subject_is_read_back(source: str, stream: str) -> None:
    stream_id = StreamId(source=source, stream=stream)
    subject = key_subject("lake", stream_id, EVENT.identity())
    tokens = subject.split(".")
    assert len(tokens) == 5
    assert not any(character in subject for character in " *>\t\r\n/\\")
    assert parse_key_subject("lake", subject) == (stream_id, EVENT.identity())
    replayed = key_subject("lake", stream_id, EVENT.identity(), is_replay=True)
    assert replayed.split(".")[2:] == ["_replay", *tokens[2:]]
    assert parse_key_subject("lake", replayed) == (stream_id, EVENT.identity())


def test_subjects_of_ordinary_and_odd_names() -> None:
    identity = EVENT.identity()
    assert key_subject("lake", StreamId(source="shopify", stream="order_lines-2"), identity) == (
        f"lake.keys.shopify.order_lines-2.{identity}"
    )
    assert key_subject("lake", None, identity) == f"lake.keys._unrouted._.{identity}"
    assert parse_key_subject("lake", f"lake.keys._unrouted._.{identity}") == (None, identity)
    assert encode_token("_unrouted") == "=5Funrouted"
    assert encode_token("a.b c*>é") == "a=2Eb=20c=2A=3E=C3=A9"
    assert subscription_name(StreamId(source="a.b", stream="c")) == "keys==a=2Eb==c"
    assert subscription_name(Lane.REPLAYS) == "keys==_replay"
    assert stream_filter("lake", Lane.REPLAYS) == "lake.keys._replay.*.*.*"
    assert stream_filter("lake", StreamId(source="_replay", stream="c")) == "lake.keys.=5Freplay.c.*"


@pytest.mark.parametrize("token", ["", "=", "=2e", "a b", "_x", "=41", "=FF", "é"])
def test_a_token_of_someone_else_is_refused(token: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeDecodeError is one too
        decode_token(token)


@pytest.mark.parametrize(
    "subject",
    [
        "lake.keys.a.b",
        "lake.keys.a.b.c",
        "x.keys.a.b." + "0" * 32,
        "lake.keys",
        "lake.keys.x.a.b." + "0" * 32,
        "lake.keys._replay.x.a.b." + "0" * 32,
    ],
)
def test_a_subject_of_someone_else_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="not a key subject"):
        parse_key_subject("lake", subject)


@pytest.mark.parametrize("namespace", ["", "a.b", "a b", "*", "ü", "x" * 33, "-a"])
def test_a_namespace_is_one_plain_token(namespace: str) -> None:
    with pytest.raises(ValueError, match="a namespace is"):
        check_namespace(namespace)


def refused_or_read(payload: bytes) -> None:
    """An event, or one short line that says why not."""
    try:
        KeyEvent.from_json(payload)
    except BadKeyEvent as error:
        assert len(str(error)) < 300  # noqa: PT017 - either outcome is right


@fuzzed(300)
@given(_events, st.binary(max_size=40), st.data())
def test_damaged_events(event: KeyEvent, noise: bytes, data: st.DataObject) -> None:
    whole = event.to_json()
    start, end = sorted((data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, len(whole)))))
    refused_or_read(whole[:start] + noise + whole[end:])
    refused_or_read(whole[:start])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5
)


@fuzzed(300)
@given(_events, st.sampled_from(sorted(json.loads(EVENT.to_json()))), _json)
def test_any_value_in_any_field(event: KeyEvent, name: str, value: object) -> None:
    refused_or_read(json.dumps(json.loads(event.to_json()) | {name: value}).encode())
    refused_or_read(
        json.dumps(json.loads(event.to_json()) | {"replay": {"by": value, "reason": name}}).encode()
    )


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"schema":[', b"-", b"1", b'"', b"\\u"])
def test_an_event_of_noise_takes_no_time(opening: bytes) -> None:
    for size in (65_536, 8 * 1024 * 1024):
        refused_or_read(opening * (size // len(opening)))
