"""What a tenant's queue holds, asked over a connection that is opened for it."""

import asyncio

from consumer.broker import Broker
from consumer.connections import broker_config
from consumer.embedded.identity import Tenant
from consumer.settings import load_settings
from consumer.subjects import Lane
from feeders.streams import StreamTable


def pending(tenant: Tenant, streams: StreamTable) -> int:
    """How many key events wait or are claimed, of all streams and of none, replays included."""

    async def ask() -> int:
        broker = await Broker.connect(broker_config(load_settings(tenant.env()), "t-pending"))
        try:
            queued = (None, *Lane, *(stream.id for stream in streams))
            return sum([sum(await broker.pending(of)) for of in queued])
        finally:
            await broker.close()

    return asyncio.run(ask())
