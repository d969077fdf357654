"""What other programs can ask the writer over NATS: replays, dead letters (docs/replay.md), and how everything is.

A standby offers nothing, so a request meets the writer, or NATS says at once that nobody is there.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version as installed_version

import structlog

from consumer import letter_request, pause_request, replay_request
from consumer import status as lake_status
from consumer.broker import Broker, Endpoint, Reply
from consumer.definitions import Definitions
from consumer.errors import BadRequest, LotusError, Unavailable
from consumer.events import KeyEvent
from consumer.letters import Letters
from consumer.logs import frames
from consumer.metrics import Metrics
from consumer.objects import Bucket
from consumer.pauses import Pauses, Pausing
from consumer.replays import Replays
from consumer.requests import read_fields
from consumer.selection import Chooser
from consumer.settings import Settings
from consumer.subjects import (
    letters_subject,
    pause_subject,
    replay_status_subject,
    replay_subject,
    resume_subject,
    status_subject,
)
from feeders.errors import LakeError
from feeders.reader import LakeReader
from feeders.streams import StreamId
from feeders.writer import Writer

log = structlog.get_logger()

LONGEST_S = 60.0
RETRY_S = 2.0

Act = Callable[[bytes], Awaitable[dict[str, object]]]
Status = Callable[[], Awaitable[dict[str, object]]]


class Services:
    """The endpoints of one term."""

    def __init__(
        self,
        *,
        broker: Broker,
        replays: Replays,
        letters: Letters,
        pausing: Pausing,
        metrics: Metrics,
        status: Status,
    ) -> None:
        self.replays = replays
        self._broker = broker
        self._metrics = metrics
        ns = broker.config.namespace
        self._endpoints = (
            self._endpoint("replay", replay_subject(ns), replay_request.SCHEMA, replays.request),
            self._endpoint("replay-status", replay_status_subject(ns), replay_request.SCHEMA, replays.status),
            self._endpoint("dead", letters_subject(ns), letter_request.SCHEMA, letters.request),
            self._endpoint("pause", pause_subject(ns), pause_request.SCHEMA, pausing.pause),
            self._endpoint("resume", resume_subject(ns), pause_request.SCHEMA, pausing.resume),
            self._endpoint("status", status_subject(ns), lake_status.SCHEMA, partial(answer_status, status)),
        )

    async def run(self) -> None:
        """Answers until cancelled."""
        version = installed_version("lotus-lake")
        try:
            while True:
                try:
                    await self._broker.serve(self._endpoints, version=version)
                except Unavailable as error:
                    log.warning("services wait", error=str(error))
                    await asyncio.sleep(RETRY_S)
        finally:
            await self.replays.close()

    def _endpoint(self, name: str, subject: str, schema: str, act: Act) -> Endpoint:
        async def answer(payload: bytes) -> Reply:
            reply = await answered(name, schema, act, payload)
            self._metrics.requests.labels(service=name, code=str(reply.code)).inc()
            return reply

        return Endpoint(name=name, subject=subject, schema=schema, answer=answer)


async def answered(name: str, schema: str, act: Act, payload: bytes) -> Reply:
    """Carries out a request; whatever goes wrong is an answer that says so."""
    try:
        async with asyncio.timeout(LONGEST_S):
            document = await act(payload)
    except BadRequest as error:
        return refusal(schema, error.code, str(error), error.hint)
    except TimeoutError:
        message = f"not done in {LONGEST_S:g} s"
        return refusal(
            schema, 504, message, "ask for fewer keys, and look whether S3 and the catalog are slow"
        )
    except (Unavailable, LakeError) as error:
        return refusal(schema, 503, str(error), "ask again when it answers: /readyz says what is waited for")
    except LotusError as error:
        return refusal(schema, 500, str(error), "the service's log has more")
    except Exception as error:  # noqa: BLE001 - the asker gets an answer, and the log the bug; the service goes on
        log.error("request failed", service=name, kind=type(error).__name__, frames=frames(error))
        return refusal(schema, 500, f"a bug: {type(error).__name__}", "the service's log says where")
    return Reply(body=json.dumps(document).encode())


async def answer_status(status: Status, payload: bytes) -> dict[str, object]:
    """Answers how everything is; a request for it says nothing, or `{}`.

    Raises:
        BadRequest: it says more.
    """
    if payload:
        read_fields(payload, schema=lake_status.SCHEMA, names=(), hint="{} or nothing at all")
    return await status()


def refusal(schema: str, code: int, message: str, hint: str) -> Reply:
    """An answer that says what is wrong and what to do, in its headers and its body."""
    body = {"schema": schema, "error": {"code": code, "message": message, "hint": hint}}
    return Reply(body=json.dumps(body).encode(), code=code, error=message)


def make_services(
    settings: Settings,
    definitions: Definitions,
    *,
    broker: Broker,
    bucket: Bucket,
    reader: LakeReader,
    writer: Writer,
    pauses: Pauses,
    metrics: Metrics,
    status: Status,
) -> Services:
    """Builds the services of a term."""

    async def publish(event: KeyEvent, stream: StreamId | None) -> bool:
        fresh = await broker.publish_key(event, stream)
        metrics.events.labels(way=event.found_by, result="new" if fresh else "pending").inc()
        return fresh

    chooser = Chooser(
        bucket=bucket, streams=definitions.streams, reader=reader, most_keys=settings.replay_max_keys
    )
    replays = Replays(
        chooser=chooser,
        reader=reader,
        limits=settings.file_limits,
        publish=publish,
        in_queue=broker.replays,
    )
    letters = Letters(broker=broker, reader=reader, writer=writer)
    pausing = Pausing(pauses=pauses, streams=definitions.streams, writer=writer)
    return Services(
        broker=broker, replays=replays, letters=letters, pausing=pausing, metrics=metrics, status=status
    )
