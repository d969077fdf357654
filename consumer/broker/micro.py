"""Requests and replies: services that anyone can find and ask, by nats.micro, which `nats service ls` shows.

nats.micro answers the requests of one endpoint one after another, so that a slow one holds up those behind it and
not other endpoints. An exception of a handler it turns into a reply without a word in any log: ours raise none.
It flushes when it starts, and nats-py loses its connection when a flush is cancelled before its PONG came.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER, Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from consumer.broker.config import BrokerConfig

SERVICE = "lotus-lake"
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
_ERROR_MOST = 400
_PATIENCE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer to a request: a JSON body, and for a refusal a code as in HTTP and one line that says why."""

    body: bytes
    code: int = 200
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Something that can be asked: `answer` gets the request's payload and must not raise."""

    name: str
    subject: str
    schema: str
    answer: Callable[[bytes], Awaitable[Reply]]


async def start(
    client: Client, config: BrokerConfig, endpoints: Sequence[Endpoint], *, version: str
) -> Service:
    """Offers endpoints over a connected client until `stop`."""
    match = _VERSION.match(version)
    service = Service(
        client,
        ServiceConfig(
            name=SERVICE,
            version=match[0] if match else "0.0.0",
            description="Status, replays of keys, dead letters, and pauses of streams, of a lotus-lake",
            metadata={"namespace": config.namespace, "client": config.client_name},
        ),
    )
    try:
        await _finish(service.start())
        for endpoint in endpoints:
            await service.add_endpoint(
                EndpointConfig(
                    name=endpoint.name,
                    subject=endpoint.subject,
                    handler=_handler(endpoint),
                    metadata={"schema": endpoint.schema},
                )
            )
        await _finish(client.flush())
    except BaseException:
        await stop(service)
        raise
    return service


async def stop(service: Service) -> None:
    """Offers them no more. A connection that is gone has done that already."""
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
        await service.stop()


async def _finish(work: Coroutine[None, None, None]) -> None:
    """Lets a flush come to its end, for a moment, when this is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=_PATIENCE_S)
        raise
    finally:
        task.cancel()


def reply_of(body: bytes, headers: dict[str, str] | None) -> Reply:
    """Reads the answer to a request of ours."""
    found = headers or {}
    code = found.get(ERROR_CODE_HEADER, "")
    error = found.get(ERROR_HEADER)
    if error is None:
        return Reply(body=body)
    return Reply(body=body, code=int(code) if code.isdecimal() and len(code) < 4 else 500, error=error)


def _handler(endpoint: Endpoint) -> Callable[[Request], Awaitable[None]]:
    async def handle(request: Request) -> None:
        reply = await endpoint.answer(request.data)
        # Without a reply subject nobody waits for an answer; what was asked for is done all the same.
        with contextlib.suppress(ValueError):
            if reply.error is None:
                await request.respond(reply.body)
            else:
                await request.respond_error(str(reply.code), as_header(reply.error), reply.body)

    return handle


def as_header(text: str) -> str:
    """Fits a text into a header's line."""
    line = " ".join(text.encode("ascii", "backslashreplace").decode().split())
    return line if len(line) <= _ERROR_MOST else f"{line[:_ERROR_MOST]}..."
