"""Decoders of raw notifications, over bytes that real programs sent, whole and damaged."""

import hashlib
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import Undecodable
from consumer.events import KeyEvent
from consumer.ingress import gocdk
from consumer.ingress.decode import PAYLOAD_BYTES_MAX, decode
from consumer.ingress.filer_pb2 import Entry, EventNotification, FileChunk, FuseAttributes
from consumer.ingress.seaweedfs import decode_notification
from tests.helpers import fuzzed

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
DATA = Path(__file__).parents[1] / "data" / "notifications"
EVENTS = sorted(path.stem for path in DATA.glob("event_*.bin"))
GOCDK = sorted(path.stem for path in DATA.glob("gocdk_*.bin"))
S3_EVENTS = sorted(path.name for path in DATA.glob("s3json_*.json"))

Decode = Callable[[bytes], tuple[KeyEvent, ...]]


def _note(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())


def _bytes(name: str) -> bytes:
    return (DATA / f"{name}.bin").read_bytes()


def _native(path: str) -> Decode:
    return lambda payload: decode_notification(payload, path=path, found_by="filer_tail", now=NOW)


def _raw(headers: dict[str, str] | None) -> Decode:
    return lambda payload: decode(payload, headers, now=NOW)


SAMPLES: list[tuple[str, bytes, Decode]] = [
    *((name, _bytes(name), _native(_note(name)["key"])) for name in EVENTS),
    *((name, _bytes(name), _raw(_note(name)["headers"])) for name in GOCDK),
    *((name, (DATA / name).read_bytes(), _raw(None)) for name in S3_EVENTS),
]


def _fields(event: KeyEvent) -> dict[str, Any]:
    return {
        "event_type": event.event,
        "bucket": event.bucket,
        "key": event.key,
        "etag": event.etag,
        "size": event.size,
        "mtime": event.mtime,
    }


def _check(decoding: Decode, payload: bytes) -> None:
    """Hold the promise for any bytes: events or Undecodable, soon."""
    began = time.monotonic()
    reason = "none"
    events: tuple[KeyEvent, ...] = ()
    try:
        events = decoding(payload)
    except Undecodable as error:
        reason = error.reason
    assert 0 < len(reason) < 200
    assert all(KeyEvent.from_json(event.to_json()) == event for event in events)
    assert time.monotonic() - began < 5


def test_there_are_samples_of_every_kind() -> None:
    assert (len(EVENTS), len(GOCDK), len(S3_EVENTS)) == (45, 17, 3)


@pytest.mark.parametrize("name", EVENTS)
def test_a_captured_change(name: str) -> None:
    note = _note(name)
    found = [_fields(event) for event in _native(note["key"])(_bytes(name))]
    # "metadata" is a tag or a permission: not an event. What came before an overwrite is of no use to us.
    wanted = [
        {field: value for field, value in change.items() if field in _fields(_created("k"))}
        for change in note["normalized"]
        if change["event_type"] != "metadata"
    ]
    assert found == wanted


@pytest.mark.parametrize("name", [name for name in GOCDK if "real" in name])
def test_a_change_in_an_envelope_is_the_change(name: str) -> None:
    bare = name.partition("_real_")[2]
    bare = {"put_small": "put_small_02"}.get(bare, f"{bare}_01")
    in_envelope = _raw(_note(name)["headers"])(_bytes(name))
    by_itself = _native(_note(f"event_{bare}")["key"])(_bytes(f"event_{bare}"))
    assert [_fields(event) for event in in_envelope] == [_fields(event) for event in by_itself]
    assert {event.found_by for event in in_envelope} == {"seaweedfs"}


@pytest.mark.parametrize("name", GOCDK)
def test_an_envelope(name: str) -> None:
    note = _note(name)
    payload = _bytes(name)
    if note["expect_key"] is None:
        with pytest.raises(Undecodable):
            gocdk.unwrap_v1(payload)
        return
    headers = note["headers"]
    envelope = gocdk.unwrap_v2(payload, headers) if headers else gocdk.unwrap_v1(payload)
    assert envelope.path == note["expect_key"]
    assert len(envelope.body) == note["expect_body_len"]
    assert hashlib.sha256(envelope.body).hexdigest() == note["expect_body_sha256"]


def test_the_map_of_another_program_has_another_type_id() -> None:
    payload = _bytes("gocdk_v1_real_put_small")
    shifted = payload.replace(bytes.fromhex("ff8104"), bytes.fromhex("ff8504")).replace(
        bytes.fromhex("ff82"), bytes.fromhex("ff86")
    )
    assert shifted != payload
    assert gocdk.unwrap_v1(shifted) == gocdk.unwrap_v1(payload)


def _record(event_name: str = "ObjectCreated:Put", **object_fields: object) -> dict[str, Any]:
    return {
        "eventSource": "aws:s3",
        "eventName": event_name,
        "s3": {"bucket": {"name": "landing"}, "object": {"key": "raw/a", **object_fields}},
    }


def _s3(*records: object) -> bytes:
    return json.dumps({"Records": records}).encode()


def _created(key: str) -> KeyEvent:
    return KeyEvent(event="created", bucket="landing", key=key, found_by="s3_event", sent_at=NOW)


@pytest.mark.parametrize("name", ["s3json_aws_synthetic.json", "s3json_minio_synthetic.json"])
def test_an_s3_event(name: str) -> None:
    [event] = decode((DATA / name).read_bytes(), None, now=NOW)
    assert event == KeyEvent(
        event="created",
        bucket="landing",
        key="raw/part 1+é.parquet",
        etag="cabe45dcc9ae5b66ba86600cca6b8ba8",
        size=1000,
        version_id="v1",
        found_by="s3_event",
        sent_at=NOW,
    )


def test_ceph_does_not_encode_the_key_and_writes_etag_small() -> None:
    record = _record("s3:ObjectCreated:Put", etag="abc", key="raw/a+b%20c", versionId="", size=3)
    record["eventSource"] = "ceph:s3"
    [event] = decode(_s3(record), {}, now=NOW)
    assert (event.key, event.etag, event.version_id) == ("raw/a+b%20c", "abc", None)


@pytest.mark.parametrize(
    ("event_name", "event"),
    [
        ("ObjectCreated:CompleteMultipartUpload", ["created"]),
        ("s3:ObjectCreated:Copy", ["created"]),
        ("ObjectRemoved:Delete", ["removed"]),
        ("s3:ObjectRemoved:DeleteMarkerCreated", ["removed"]),
        ("LifecycleExpiration:Delete", ["removed"]),
        ("s3:ObjectAccessed:Get", []),
        ("ObjectTagging:Put", []),
        ("ObjectAcl:Put", []),
    ],
)
def test_kinds_of_s3_events(event_name: str, event: list[str]) -> None:
    assert [found.event for found in decode(_s3(_record(event_name)), None, now=NOW)] == event


@pytest.mark.parametrize(
    "payload",
    [
        (DATA / "s3json_aws_testevent_synthetic.json").read_bytes(),
        b'{"Records": []}',
        b'{"Records": null}',
    ],
)
def test_messages_that_tell_of_nothing(payload: bytes) -> None:
    assert decode(payload, None, now=NOW) == ()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"Records": {}}', "Records is a dict"),
        (b'{"Records": [5]}', "a record is a int"),
        (b'{"Records": [{}]}', "eventName is a NoneType"),
        (b'{"Records": [{"eventName": "ObjectCreated:Put"}]}', "s3 is a NoneType"),
        (_s3(_record(key="")), "key: expected 1 to 1,024 bytes"),
        (_s3(_record(key="%FF")), "form-encoded"),
        (_s3(_record(key="k" * 1025)), "found 1,025"),
        (_s3(_record(key="a%00b")), "holds a NUL"),
        (_s3(_record(key="\ud800")), "not valid UTF-8"),
        (_s3(_record(size="3")), "s3.object.size is a str"),
        (_s3(_record(size=-3)), "size: expected bytes"),
        (_s3(_record(eTag=["x"])), "eTag is a list"),
        (b"", "gob"),
        (b"[]", "gob"),
        (b"null", "gob"),
        (b'{"a": 1}', "gob"),
        (b'{"Records": [' + b"[" * 100_000, "gob"),
        (b"\0" * (PAYLOAD_BYTES_MAX + 1), "8,388,609 bytes"),
        (b"\xf8" + b"\xff" * 8 + b"x", "ends before"),
        (b"\x80" + b"\xff" * 200, "a number of 128 bytes"),
        (b"\x03\x04\x00\xf8" + b"\xff" * 8, "gob"),
    ],
)
def test_what_no_decoder_knows(payload: bytes, reason: str) -> None:
    with pytest.raises(Undecodable) as refusal:
        decode(payload, None, now=NOW)
    assert reason in refusal.value.reason
    assert len(refusal.value.reason) < 200


def test_a_header_that_is_not_encoded_text() -> None:
    with pytest.raises(Undecodable, match="header `key`"):
        decode(_bytes("event_put_small_02"), {"key": "%FF"}, now=NOW)


def _entry(name: str, **fields: Any) -> Entry:
    return Entry(name=name, attributes=FuseAttributes(file_size=5, mtime=1_795_370_112), **fields)


def _change(path: str, *, old: Entry | None = None, new: Entry | None = None) -> tuple[KeyEvent, ...]:
    change = EventNotification(old_entry=old, new_entry=new)
    if new is not None:
        change.new_parent_path = path.rpartition("/")[0]
    return _native(path)(change.SerializeToString())


def test_an_etag_made_of_chunks() -> None:
    one = _entry("a", chunks=[FileChunk(size=5, e_tag="yr5F3MmuW2a6hmAMymuLqA==")])
    two = _entry("a", chunks=[*one.chunks, FileChunk(offset=5, size=7, e_tag="zpceM8T98Qz1G0WozxXpUA==")])
    broken = _entry("a", chunks=[*one.chunks, FileChunk(offset=5, size=7, e_tag="?")])
    found = [_change("/buckets/b/a", new=entry)[0] for entry in (one, two, broken, _entry("a"))]
    digests = bytes.fromhex("cabe45dcc9ae5b66ba86600cca6b8ba8ce971e33c4fdf10cf51b45a8cf15e950")
    assert [event.etag for event in found] == [
        "cabe45dcc9ae5b66ba86600cca6b8ba8",
        f"{hashlib.md5(digests).hexdigest()}-2",  # noqa: S324 - S3's form of an ETag
        None,
        None,
    ]
    assert [event.size for event in found] == [5, 12, 12, 5]


def test_versions_of_a_key() -> None:
    path = "/buckets/b/raw/a.parquet.versions/v_7f"
    version = _entry("v_7f", extended={"Seaweed-X-Amz-Version-Id": b"7f", "Seaweed-X-Amz-ETag": b'"ab"'})
    marker = _entry(
        "v_7f", extended={"Seaweed-X-Amz-Version-Id": b"7f", "Seaweed-X-Amz-Delete-Marker": b"true"}
    )
    [created] = _change(path, new=version)
    assert (created.event, created.key, created.version_id, created.etag) == (
        "created",
        "raw/a.parquet",
        "7f",
        "ab",
    )
    assert [event.event for event in _change(path, old=version)] == ["removed"]
    assert _change(path, old=version, new=_entry("v_7f")) == ()
    assert [(event.event, event.key) for event in _change(path, new=marker)] == [("removed", "raw/a.parquet")]
    assert [(event.event, event.key) for event in _change(path, old=marker)] == [("created", "raw/a.parquet")]


def test_two_delete_markers_of_a_key_are_two_hints() -> None:
    def hint(version: bytes) -> KeyEvent:
        extended = {"Seaweed-X-Amz-Version-Id": version, "Seaweed-X-Amz-Delete-Marker": b"true"}
        name = f"v_{version.decode()}"
        [event] = _change(f"/buckets/b/raw/a.versions/{name}", new=_entry(name, extended=extended))
        return event

    assert (hint(b"7f").key, hint(b"7f").version_id) == ("raw/a", "7f")
    assert hint(b"7f").identity() != hint(b"8a").identity()


def test_what_was_put_without_versioning_has_no_version() -> None:
    plain = "/buckets/b/raw/a"
    null = _entry("a", extended={"Seaweed-X-Amz-Version-Id": b"null", "Seaweed-X-Amz-ETag": b'"ab"'})
    [created] = _change(plain, new=null)
    assert (created.key, created.etag, created.version_id) == ("raw/a", "ab", None)
    [event] = decode(_s3(_record(versionId="null")), None, now=NOW)
    assert event.version_id is None


def test_an_s3_event_that_names_the_entry_of_a_version() -> None:
    [event] = decode(_s3(_record(key="raw/a.parquet.versions/v_7f")), None, now=NOW)
    assert (event.key, event.version_id) == ("raw/a.parquet", "7f")
    [marked] = decode(_s3(_record("ObjectRemoved:DeleteMarkerCreated", versionId="m1")), None, now=NOW)
    assert (marked.event, marked.key, marked.version_id) == ("removed", "raw/a", "m1")


@pytest.mark.parametrize(
    "path",
    [
        "/buckets/b/.uploads/x/0001.part",
        "/buckets/.system/owners/a",
        "/buckets/b",
        "/buckets/",
        "/buckets//a",
        "/etc/seaweedfs/filer.conf",
        "buckets/b/a",
        "",
    ],
)
def test_paths_that_are_no_objects(path: str) -> None:
    name = path.rpartition("/")[2]
    assert _change(path, new=_entry(name)) == ()
    assert _change(path, old=_entry(name)) == ()


def test_a_key_of_an_upload_like_name_below_the_top_is_an_object() -> None:
    [event] = _change("/buckets/b/raw/.uploads", new=_entry(".uploads"))
    assert event.key == "raw/.uploads"


@pytest.mark.parametrize(("name", "payload", "decoding"), SAMPLES, ids=[name for name, _, _ in SAMPLES])
def test_cut_at_every_byte(name: str, payload: bytes, decoding: Decode) -> None:
    del name
    for length in range(len(payload)):
        _check(decoding, payload[:length])
        _check(decoding, payload[length:])


_samples = st.sampled_from(SAMPLES)


@fuzzed(200)
@given(_samples, _samples, st.data())
def test_spliced(
    one: tuple[str, bytes, Decode], other: tuple[str, bytes, Decode], data: st.DataObject
) -> None:
    head = one[1][: data.draw(st.integers(0, len(one[1])))]
    tail = other[1][data.draw(st.integers(0, len(other[1]))) :]
    _check(one[2], head + tail)


@fuzzed(200)
@given(_samples, st.data())
def test_single_bytes_changed(sample: tuple[str, bytes, Decode], data: st.DataObject) -> None:
    payload = bytearray(sample[1])
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    _check(sample[2], bytes(payload))


@fuzzed(200)
@given(st.binary(max_size=2000), st.none() | st.fixed_dictionaries({"key": st.text(max_size=50)}))
def test_random_bytes(payload: bytes, headers: dict[str, str] | None) -> None:
    _check(_raw(headers), payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"\0" * PAYLOAD_BYTES_MAX,
        b"[" * PAYLOAD_BYTES_MAX,
        b'{"Records":[' + b"9" * 8_000_000 + b"]}",
        b'{"Records":[' + b"{}," * 2_000_000 + b"{}]}",
        b"\x02\x01\x00" * (PAYLOAD_BYTES_MAX // 3),
        EventNotification(
            new_entry=_entry("a", chunks=[FileChunk(offset=n, size=1, e_tag="yr5F") for n in range(200_000)]),
            new_parent_path="/buckets/b",
        ).SerializeToString(),
    ],
    ids=["zeros", "brackets", "digits", "records", "types", "chunks"],
)
def test_the_largest_payloads_take_bounded_time(payload: bytes) -> None:
    _check(_raw(None), payload)
    _check(_raw({"key": "/buckets/b/a"}), payload)
