"""Hints: the server says on which subject it has just stored a key event, without the event.

They come from the js_stream's own republishing, so what is hinted at can be claimed, and a version that the queue
refused gives no hint. A subscription to the key events themselves came too early in 4 % of cases (measured), and would
bring each event twice. Hints are core messages: some may be lost, so whoever hears them looks by himself now and then.
"""

from collections.abc import Callable, Iterable

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from consumer.subjects import Lane, Queued, stream_tokens

_SEQUENCE = "Nats-Sequence"

Heard = Callable[[Queued, int], None]
"""Told whose key event was stored, and its position in the js_stream."""


async def subscribe(client: Client, namespace: str, ofs: Iterable[Queued], heard: Heard) -> Subscription:
    """Ask for hints; they are heard when the server has answered what is sent after it."""
    # A lane's subjects have one token more, in front, and the lane is all of them.
    by_tokens = {
        (of.value,) if isinstance(of, Lane) else tuple(stream_tokens(of).split(".")): of for of in ofs
    }
    before = len(f"{namespace}.hints.")

    async def hear(message: Msg) -> None:
        first, second, *_ = (*message.subject[before:].split("."), "")
        sequence = (message.headers or {}).get(_SEQUENCE, "")
        for tokens in ((first, second), (first,)):
            if tokens in by_tokens and sequence.isdecimal():
                heard(by_tokens[tokens], int(sequence))

    return await client.subscribe(f"{namespace}.hints.>", cb=hear)
