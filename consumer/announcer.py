"""Announces on `{ns}.commits.{source}.{stream}` what was committed of a stream and is in its models.

At least once: what is not stored yet is told again and again, and each term, and each time that the lake is opened,
begins with all streams. While NATS is away a newer announcement of a stream takes the place of an older one: it says
all that the older one said.
"""

import asyncio
import contextlib
import json

import structlog

from consumer.broker import Broker
from consumer.errors import Unavailable, UnexpectedAnswer
from feeders.streams import StreamId
from feeders.transform import Followed

log = structlog.get_logger(__name__)

SCHEMA = "lotus-lake.commit/1"
RETRY_S = 1.0
LAST_TRY_S = 2.0


class Announcer:
    """Publishes what the models' runs tell. Of one event loop; `followed` may be called by any thread."""

    def __init__(self, broker: Broker) -> None:
        """Take the broker; the running loop is the one that publishes."""
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[StreamId, Followed] = {}
        self._news = asyncio.Event()

    def followed(self, followed: Followed) -> None:
        """Takes an announcement. After the loop's end it is lost, and the next term begins with another one."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._take, followed)

    async def run(self) -> None:
        """Publishes until it is cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._publish()
            except (Unavailable, UnexpectedAnswer) as error:
                log.warning("an announcement of commits waits", error=str(error))
                await asyncio.sleep(RETRY_S)
                self._news.set()

    async def close(self) -> None:
        """Tries once more to publish what is left."""
        with contextlib.suppress(Unavailable, UnexpectedAnswer, TimeoutError):
            async with asyncio.timeout(LAST_TRY_S):
                await self._publish()

    def _take(self, followed: Followed) -> None:
        self._waiting |= dict.fromkeys(followed.streams, followed)
        self._news.set()

    async def _publish(self) -> None:
        for stream, followed in list(self._waiting.items()):
            await self._broker.publish_commit(stream, announcement(stream, followed))
            if self._waiting[stream] is followed:
                del self._waiting[stream]


def announcement(stream: StreamId, followed: Followed) -> bytes:
    """The message: JSON, as docs/architecture.md describes it."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "source": stream.source,
            "stream": stream.stream,
            "staging_snapshot": followed.staging_snapshot,
            "model_snapshot": followed.model_snapshot,
            "models": {run.model: {"rows": run.rows, "how": run.how} for run in followed.runs},
            "held_back": sorted(followed.held_back),
        }
    ).encode()
