"""Dead letters for whoever asks: looking through them, and dropping some for a reason."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

import structlog

from consumer.broker import Broker
from consumer.letter_request import SCHEMA, LetterRequest, read_letter_request
from feeders.letters import (
    Letter,
    LetterCount,
    LetterFilter,
    count_letters,
    drop_letters,
    find_letters,
    letter_json,
)
from feeders.reader import LakeReader
from feeders.streams import StreamId
from feeders.writer import Writer

log = structlog.get_logger()

REPLY_BYTES_MOST = 512 * 1024
FEED_MOST = 2000


class Letters:
    """Answers requests about dead letters, for one term."""

    def __init__(self, *, broker: Broker, reader: LakeReader, writer: Writer) -> None:
        self._broker = broker
        self._reader = reader
        self._writer = writer

    async def request(self, payload: bytes) -> dict[str, object]:
        """Answers a request.

        Raises:
            BadRequest: it can't be carried out as it is.
            Unavailable, LakeError: the lake or the queue does not answer.
        """
        request = read_letter_request(payload)
        match request.op:
            case "drop":
                return {"schema": SCHEMA, **await self._drop(request)}
            case "summary":
                return {"schema": SCHEMA, **summary(await self._count(request.which))}
            case "list" | "show":
                letters = await asyncio.to_thread(
                    self._reader.read,
                    lambda lake: find_letters(lake, request.which, limit=request.limit + 1),
                )
                documents = [letter_json(letter) for letter in letters[: request.limit]]
                if request.op == "show":
                    await add_payloads(self._broker, letters, documents)
                fitting = fit(documents)
                return {
                    "schema": SCHEMA,
                    "letters": fitting,
                    "truncated": len(fitting) < len(letters),
                }

    async def _count(self, which: LetterFilter) -> list[LetterCount]:
        return await asyncio.to_thread(self._reader.read, lambda lake: count_letters(lake, which))

    async def _drop(self, request: LetterRequest) -> dict[str, object]:
        if request.dry_run:
            counts = await self._count(request.which)
            return {"dropped": 0, "would_drop": sum(count.letters for count in counts)}
        resolution = f"dropped by {request.by}: {request.reason}"
        dropped = await asyncio.wrap_future(
            self._writer.transact(
                "drop dead letters",
                lambda transaction: drop_letters(transaction, request.which, resolution=resolution),
            )
        )
        log.info("dead letters dropped", letters=dropped, by=request.by, reason=request.reason)
        return {"dropped": dropped, "would_drop": dropped}


def summary(counts: Sequence[LetterCount]) -> dict[str, object]:
    """Counts by stream and reason, as JSON."""
    return {
        "letters": sum(count.letters for count in counts),
        "counts": [
            {
                "source": count.stream.source if count.stream else None,
                "stream": count.stream.stream if count.stream else None,
                "reason": count.reason,
                "letters": count.letters,
                "first_failed_at": count.first_failed_at.isoformat(),
                "last_failed_at": count.last_failed_at.isoformat(),
            }
            for count in counts
        ],
    }


async def add_payloads(
    broker: Broker, letters: Sequence[Letter], documents: Sequence[dict[str, object]]
) -> None:
    """Adds the payloads of messages that were no key events, as far as the feed still has them.

    Raises:
        Unavailable: NATS does not answer.
    """
    wanted: defaultdict[StreamId | None, dict[object, list[dict[str, object]]]] = defaultdict(dict)
    for letter, document in zip(letters, documents, strict=False):
        subject = cast("Mapping[str, object]", document["detail"]).get("subject")
        if letter.key is None and subject is not None:
            wanted[letter.stream].setdefault(subject, []).append(document)
    # The feed is read once for each stream, and no more of it is held than one message.
    for stream, of_subject in wanted.items():

        def takes(payload: bytes, of_subject: dict[object, list[dict[str, object]]] = of_subject) -> bool:
            announced = announcement(payload)
            for document in of_subject.pop(announced.get("subject"), []):
                document["payload_base64"] = announced.get("payload_base64")
            return bool(of_subject)

        await broker.dead_feed(stream, takes, most=FEED_MOST)


def announcement(payload: bytes) -> Mapping[str, object]:
    """Reads a message of the feed. Others may publish there too: what is no announcement of ours is empty."""
    try:
        value: object = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    document = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    return document if isinstance(document.get("subject"), str) else {}


def fit(documents: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The first of these that one message can hold."""
    fitting: list[dict[str, object]] = []
    size = 0
    for document in documents:
        size += len(json.dumps(document))
        if fitting and size > REPLY_BYTES_MOST:
            break
        fitting.append(document)
    return fitting
