"""Many streams, nearly all of them idle: start, what it costs to wait, claims. Prints rows for docs/performance.md."""

import asyncio
import logging
import sys
import time

import psutil
import pytest
import structlog

from consumer.broker import Broker
from consumer.embedded.identity import Tenant
from consumer.embedded.stack import Stack
from tests.pool import broker_config, key_of, publish, queue, running_pool, stream_ids

pytestmark = pytest.mark.bench
CLAIMS = 300
IDLE_S = 20.0


def say(what: str, value: str) -> None:
    sys.stdout.write(f"\n| {what} | {value} |")
    sys.stdout.flush()


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@pytest.mark.parametrize("count", [8, 500])
async def test_many_streams(stack: Stack, tenant: Tenant, count: int) -> None:
    # A line for each key would be part of what is measured.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    streams = stream_ids(count)
    begun = time.perf_counter()
    async with queue(broker_config(tenant), streams) as broker:
        say(f"{count} streams: first set-up", f"{time.perf_counter() - begun:.2f} s")
        begun = time.perf_counter()
        await broker.subscribe(streams)
        say("set-up again", f"{time.perf_counter() - begun:.2f} s")
        feeder = await Broker.connect(broker_config(tenant))
        begun = time.perf_counter()
        async with running_pool(broker, streams) as running:
            claimed: dict[str, asyncio.Future[float]] = {}
            running.walks.heard = lambda key: claimed[key].set_result(time.perf_counter())

            async def claim_s(number: int) -> float:
                stream = streams[-1 - number % count]
                heard = claimed[key_of(stream, number)] = asyncio.get_running_loop().create_future()
                published = time.perf_counter()
                await publish(feeder, stream, [number])
                took_s = await heard - published
                running.walks.commit(1)
                return took_s

            await claim_s(0)
            say("the pool's start to the first claim", f"{time.perf_counter() - begun:.2f} s")
            pids = (psutil.Process().pid, stack.nats.pid)
            before = [cpu_s(pid) for pid in pids]
            await asyncio.sleep(IDLE_S)
            ours, servers = (
                100 * (cpu_s(pid) - then) / IDLE_S for pid, then in zip(pids, before, strict=True)
            )
            say("idle, of a core", f"ours {ours:.1f} %, nats-server's {servers:.1f} %")
            took = sorted([await claim_s(number + 1) for number in range(CLAIMS)])
            p50, p95, longest = (1000 * took[int(share * (CLAIMS - 1))] for share in (0.5, 0.95, 1))
            say("publish to claim", f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, longest {longest:.0f} ms")
        await feeder.close()
