"""Dead letters for whoever asks: what a command sends, and what the feed gives."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from consumer.broker import Broker, BrokerConfig
from consumer.cli.dead import document_for
from consumer.errors import BadRequest
from consumer.letter_request import read_letter_request
from consumer.letters import add_payloads
from feeders.letters import Letter, letter_json
from feeders.streams import StreamId


def test_an_empty_reason_is_not_any_reason() -> None:
    """`--dead "$REASON"` in a script in which REASON is not set."""
    document = document_for(None, "", None, None, None, by="ann", reason="why", dry_run=False)
    payload = {name: value for name, value in document.items() if value is not None} | {"op": "drop"}
    with pytest.raises(BadRequest, match="dead: expected 1 to 64 bytes"):
        read_letter_request(json.dumps(payload).encode())


class Feed(Broker):
    """A feed of dead letters, in which others publish too."""

    def __init__(self, payloads: list[bytes]) -> None:
        super().__init__(BrokerConfig(url="nats://127.0.0.1:1"))
        self.payloads = payloads
        self.read = 0

    async def dead_feed(
        self, stream_id: StreamId | None, takes: Callable[[bytes], bool], *, most: int
    ) -> None:
        for payload in self.payloads:
            self.read += 1
            if not takes(payload):
                return


async def test_the_feed_is_read_once_and_what_is_not_ours_is_passed_over() -> None:
    subjects = [f"lake.keys._unrouted._.{number}" for number in range(3)]
    ours = [
        json.dumps({"subject": each, "payload_base64": base64.b64encode(each.encode()).decode()}).encode()
        for each in subjects
    ]
    junk = [b"", b"\xff", b"[]", b"7", b'{"subject": []}', b"[" * 100_000]
    broker = Feed([*junk, *ours, *junk])
    letters = [
        Letter(
            stream=None,
            bucket=None,
            key=None,
            etag=None,
            reason="undecodable",
            detail=json.dumps({"subject": each}),
            attempts=1,
            failed_at=datetime.now(UTC),
            resolved_at=None,
            resolution=None,
        )
        for each in subjects
    ]
    documents = [letter_json(letter) for letter in letters]
    await add_payloads(broker, letters, documents)
    assert [base64.b64decode(str(each["payload_base64"])).decode() for each in documents] == subjects
    assert broker.read == len(junk) + len(ours), "it ends with the last one that is wanted"
