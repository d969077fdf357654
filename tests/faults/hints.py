"""`lotus-lake run`, its tail unreliable: `hints.py drop SHARE` loses notifications, `hints.py twice` repeats them.

With `twice` each one is published a while later than it came, and once more after another while, so that their
order is lost and the second may come before or after the first one has its verdict.
"""

import asyncio
import os
import random
import sys

from consumer.broker import Broker
from consumer.cli import app
from consumer.events import KeyEvent
from consumer.ingress.filer_tail import FOUND_BY
from feeders.streams import StreamId

MOST_LATE_S = 0.5
MOST_APART_S = 3.0
DROPPED = "notification dropped"


def main() -> None:
    """Spoils what the tail publishes and runs the consumer."""
    how, *share = sys.argv[1:]
    publish = Broker.publish_key
    dice = random.Random(1)
    seconds: set[asyncio.Task[None]] = set()

    async def drop(self: Broker, event: KeyEvent, stream_id: StreamId | None) -> bool:
        if event.found_by == FOUND_BY and dice.random() < float(share[0]):
            os.write(1, f"{DROPPED}\n".encode())
            return True
        return await publish(self, event, stream_id)

    async def again(self: Broker, event: KeyEvent, stream_id: StreamId | None) -> None:
        await asyncio.sleep(dice.uniform(0, MOST_APART_S))
        await publish(self, event, stream_id)

    async def twice(self: Broker, event: KeyEvent, stream_id: StreamId | None) -> bool:
        if event.found_by != FOUND_BY:
            return await publish(self, event, stream_id)
        await asyncio.sleep(dice.uniform(0, MOST_LATE_S))
        second = asyncio.create_task(again(self, event, stream_id))
        seconds.add(second)
        second.add_done_callback(seconds.discard)
        return await publish(self, event, stream_id)

    Broker.publish_key = {"drop": drop, "twice": twice}[how]
    app(["run"])


if __name__ == "__main__":
    main()
