"""Requests from outside: whatever is sent is read, or refused with what is wrong. Nothing else ever happens."""

import itertools
import json
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from consumer import letter_request, replay_request
from consumer.errors import BadRequest
from consumer.events import Replay
from consumer.letter_request import LetterRequest, read_letter_request
from consumer.replay_request import (
    NO_REASON,
    UNKNOWN_PERSON,
    Below,
    Days,
    DeadLetters,
    OneKey,
    ReplayRequest,
    Selection,
    read_replay_request,
)
from consumer.requests import REQUEST_BYTES_MAX
from feeders.letters import LetterFilter
from feeders.streams import StreamId
from tests.asking import replay_schemas

ORDERS = StreamId(source="shopify", stream="orders")
JULY = {"source": "shopify", "stream": "orders", "from": "2026-07-01", "to": "2026-07-31"}

_names = st.sampled_from(
    [
        "schema",
        "key",
        "prefix",
        "source",
        "stream",
        "from",
        "to",
        "dead",
        "by",
        "reason",
        "dry_run",
        "op",
        "limit",
    ]
)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        ["2026-07-01", "2026-02-30", "list", "drop", "lotus-lake.replay/1", "\ud800", "\0", "a\nb"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def sent(document: object) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("document", "selection"),
    [
        ({"key": "raw/é \n.parquet"}, OneKey(key="raw/é \n.parquet")),
        ({"prefix": "raw/shopify/"}, Below(prefix="raw/shopify/")),
        (JULY, Days(stream=ORDERS, first=date(2026, 7, 1), last=date(2026, 7, 31))),
        ({"dead": "unrouted"}, DeadLetters(which=LetterFilter(reason="unrouted"))),
        ({"dead": "*", "prefix": "raw/"}, DeadLetters(which=LetterFilter(prefix="raw/"))),
        (
            {"dead": "corrupt", "source": "shopify", "stream": "orders", "key": "k"},
            DeadLetters(which=LetterFilter(reason="corrupt", stream=ORDERS, key="k")),
        ),
    ],
)
def test_what_a_replay_is_asked_for(document: dict[str, object], selection: Selection) -> None:
    plain = read_replay_request(sent(document))
    asked = Replay(by=UNKNOWN_PERSON, reason=NO_REASON)
    assert plain == ReplayRequest(selection=selection, asked=asked, dry_run=False)
    more = {"schema": "lotus-lake.replay/1", "by": "ann", "reason": "mended", "dry_run": True}
    asked = Replay(by="ann", reason="mended")
    expected = ReplayRequest(selection=selection, asked=asked, dry_run=True)
    assert read_replay_request(sent(document | more)) == expected


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "an empty request"),
        (b"raw/key.parquet", "not JSON at character 0"),
        (b"[]", "expected a JSON object, found an array"),
        (b'{"key": NaN}', "NaN is not JSON"),
        (b'{"key": "a", "key": "b"}', "a field stands twice"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"[" * 10_000, "not JSON"),
        (b" " * REQUEST_BYTES_MAX + b"{}", "bytes, expected at most 16,384"),
        (sent({}), "found none of them"),
        (sent({"key": "a", "prefix": "b"}), "found key, prefix"),
        (sent({"key": "a", "nope": 1}), "unknown field 'nope', expected key, prefix"),
        (sent({"key": 7}), "key: expected a text, found 7"),
        (sent({"key": ""}), "key: expected 1 to 1,024 bytes of UTF-8, found 0"),
        (sent({"key": "é" * 600}), "key: expected 1 to 1,024 bytes of UTF-8, found 1,200"),
        (sent({"key": "a\0"}), "key: holds a NUL"),
        (sent({"key": "\ud800"}), "key: is not valid UTF-8"),
        (sent({"key": "a", "by": "x\ny"}), "by: expected one line"),
        (sent({"key": "a", "by": "x" * 129}), "by: expected 1 to 128 bytes"),
        (sent({"key": "a", "reason": "x" * 513}), "reason: expected 1 to 512 bytes"),
        (sent({"key": "a", "dry_run": "yes"}), "dry_run: expected true or false, found 'yes'"),
        (sent({"key": "a", "schema": "lotus-lake.replay/2"}), 'schema: expected "lotus-lake.replay/1"'),
        (sent({"source": "shopify", "from": "2026-07-01"}), "stream: missing"),
        (sent(JULY | {"from": "2026-08-01"}), "from: 2026-08-01 is after to"),
        (sent(JULY | {"to": "2026-7-1"}), "to: expected a day as YYYY-MM-DD, found '2026-7-1'"),
        (sent(JULY | {"to": "2026-02-30"}), "to: expected a day"),
        (sent({"dead": "x", "from": "2026-07-01"}), "from: dead letters are not chosen by day"),
        (sent({"dead": "x", "source": "a"}), "source and stream: expected both"),
        (sent({"dead": "x", "key": "a", "prefix": "b"}), "key and prefix: expected one of them"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(payload: bytes, says: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_replay_request(payload)
    assert says in str(refused.value)
    assert '{"key": "raw/..."}' in refused.value.hint
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=200) | st.dictionaries(_names, _values, max_size=6).map(sent))
def test_random_requests_are_read_or_refused(payload: bytes) -> None:
    refusals: list[BadRequest] = []
    for read in (read_replay_request, read_letter_request):
        try:
            read(payload)
        except BadRequest as error:
            refusals.append(error)
    assert all(str(refusal).isascii() and refusal.hint for refusal in refusals)


def test_the_documentation_has_the_fields_that_are_read() -> None:
    schemas = replay_schemas()
    for schema, names in (
        (replay_request.SCHEMA, replay_request.FIELDS),
        (letter_request.SCHEMA, letter_request.FIELDS),
    ):
        assert set(schemas[schema]["request"]["properties"]) == {"schema", *names}
        assert schemas[schema]["request"]["additionalProperties"] is False


def test_the_schema_accepts_what_is_read_and_nothing_else() -> None:
    """Each set of fields that choose keys."""
    request = Draft202012Validator(replay_schemas()[replay_request.SCHEMA]["request"])
    values = {"key": "k", "prefix": "p", **JULY, "dead": "*"}
    accepted = 0
    for count in range(len(values) + 1):
        for names in itertools.combinations(values, count):
            document = {name: values[name] for name in names}
            try:
                read_replay_request(sent(document))
                is_read = True
            except BadRequest:
                is_read = False
            assert request.is_valid(document) == is_read, document
            accepted += is_read
    assert accepted == 3 + 2 * 3


def test_what_is_asked_of_dead_letters() -> None:
    assert read_letter_request(b"{}") == LetterRequest(
        op="list", which=LetterFilter(), limit=100, by=UNKNOWN_PERSON, reason=None, dry_run=False
    )
    dropped = read_letter_request(sent({"op": "drop", "dead": "*", "reason": "a test file", "by": "ann"}))
    assert (dropped.op, dropped.which, dropped.by, dropped.reason) == (
        "drop",
        LetterFilter(),
        "ann",
        "a test file",
    )
    assert read_letter_request(sent({"op": "show", "key": "k", "all": True})).which == LetterFilter(
        key="k", state="any"
    )


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"op": "delete"}, "op: expected list, summary, show or drop, found 'delete'"),
        ({"op": "drop", "dead": "corrupt"}, "reason: missing"),
        ({"op": "drop", "reason": "all of them"}, "dead: missing"),
        ({"op": "drop", "dead": "*", "reason": "x", "all": True}, "all: "),
        ({"limit": 0}, "limit: expected a whole number from 1 to 1,000, found 0"),
        ({"limit": True}, "limit: expected a whole number"),
        ({"limit": 10**30}, "limit: expected a whole number"),
    ],
)
def test_bad_requests_about_dead_letters(document: dict[str, object], says: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_letter_request(sent(document))
    assert says in str(refused.value)
