"""An HTTP proxy for tests between a client and S3: spoils a share of the requests, and forwards the others untouched.

The head of a request goes on as it came, its Host included, since SigV4 signs that: to SeaweedFS the request looks
as if it had been sent there directly. Every request has a connection of its own to the server.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

_CHUNK_BYTES = 64 * 1024
_HEAD_BYTES_MAX = 64 * 1024

Spoil = Literal["500", "503", "half", "slow"]
"""What becomes of a spoiled request. `half`: the request is carried out, and the answer ends in its middle, or the
request's own body does, so that it is not."""

LATE_S = 0.2
_ERRORS = {
    "500": (b"500 Internal Server Error", b"InternalError"),
    "503": (b"503 Service Unavailable", b"SlowDown"),
}


@dataclass(frozen=True, kw_only=True)
class Head:
    """The first lines of a message, as they came, and what they say of its body."""

    raw: bytes
    length: int
    chunked: bool
    closes: bool
    expects_continue: bool

    @property
    def method(self) -> bytes:
        return self.raw.split(b" ", 1)[0]

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])


class HttpProxy:
    """Listens on a free port of 127.0.0.1, in a thread of its own; `spoil` orders what happens from then on."""

    def __init__(self, host: str, port: int, *, seed: int) -> None:
        self._target = (host, port)
        self._dice = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http-proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._spoil: Spoil | None = None
        self._share = 0.0
        self.requests = 0
        self.spoiled = 0
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def spoil(self, how: Spoil | None, *, share: float = 1.0) -> None:
        """Spoils this share of the requests from now on; None leaves them all alone."""
        self._loop.call_soon_threadsafe(self._set, how, share)

    # --- on the proxy's thread ----------------------------------------------------------------------------

    def _set(self, how: Spoil | None, share: float) -> None:
        self._spoil, self._share = how, share

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=_HEAD_BYTES_MAX)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._request(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side went away, so both do
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serves one request; says whether the connection may have another one."""
        head = await read_head(reader)
        if head is None:
            return False
        self.requests += 1
        fate = self._spoil if self._spoil and self._dice.random() < self._share else None
        self.spoiled += fate is not None
        match fate:
            case "500" | "503":
                return await self._refuse(head, reader, writer, *_ERRORS[fate])
            case "half":
                await self._forward(head, reader, writer, cut=self._dice.choice(("request", "answer")))
                return False
            case "slow":
                await asyncio.sleep(LATE_S)
            case None:
                pass
        return await self._forward(head, reader, writer, cut=None)

    async def _refuse(
        self,
        head: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        status: bytes,
        code: bytes,
    ) -> bool:
        if head.expects_continue:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await copy_body(head, reader, lambda _: None)
        body = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>spoiled</Message></Error>" % code
        if head.method == b"HEAD":
            body = b""
        writer.write(
            b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s"
            % (status, len(body), body)
        )
        await writer.drain()
        return not head.closes

    async def _forward(
        self,
        head: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        cut: Literal["request", "answer"] | None,
    ) -> bool:
        up_reader, up_writer = await asyncio.open_connection(*self._target, limit=_HEAD_BYTES_MAX)
        try:
            up_writer.write(head.raw)
            if head.expects_continue:
                # The client sends the body only when it is told to; an error instead is its answer.
                told = await read_head(up_reader)
                if told is None or told.status != 100:
                    return told is not None and await self._answer(told, head, up_reader, writer, cut=cut)
                writer.write(told.raw)
            if cut == "request" and head.length > 1:
                await copy_body(head, reader, up_writer.write, most=head.length // 2)
                await up_writer.drain()
                return False
            await copy_body(head, reader, up_writer.write)
            await up_writer.drain()
            while (answer := await read_head(up_reader)) is not None and answer.status == 100:
                writer.write(answer.raw)
            return answer is not None and await self._answer(answer, head, up_reader, writer, cut=cut)
        finally:
            up_writer.transport.abort()

    async def _answer(
        self,
        answer: Head,
        request: Head,
        up_reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        cut: Literal["request", "answer"] | None,
    ) -> bool:
        has_body = request.method != b"HEAD" and answer.status not in (204, 304)
        if cut is not None:
            # In the middle of the body; of an answer without one, in the middle of its head.
            whole = has_body and answer.length > 1
            writer.write(answer.raw if whole else answer.raw[: len(answer.raw) // 2])
            if whole:
                await copy_body(answer, up_reader, writer.write, most=answer.length // 2)
            await writer.drain()
            writer.close()  # not a reset, which would take back what was let through
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return False
        writer.write(answer.raw)
        if has_body:
            await copy_body(answer, up_reader, writer.write)
        await writer.drain()
        return not (request.closes or answer.closes)


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Reads the first lines of a message; None at the connection's end."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    fields: dict[bytes, bytes] = {}
    for line in raw.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip()
    return Head(
        raw=raw,
        length=int(fields.get(b"content-length", b"0")),
        chunked=fields.get(b"transfer-encoding", b"").lower() == b"chunked",
        closes=fields.get(b"connection", b"").lower() == b"close",
        expects_continue=fields.get(b"expect", b"").lower() == b"100-continue",
    )


async def copy_body(
    head: Head, reader: asyncio.StreamReader, write: Callable[[bytes], None], *, most: int | None = None
) -> None:
    """Copies a message's body as it is on the wire, or the first `most` bytes of one whose length is known."""
    if head.chunked:
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            write(line + await reader.readexactly(size + 2))
            if size == 0:
                return
    left = head.length if most is None else most
    while left:
        data = await reader.read(min(left, _CHUNK_BYTES))
        if not data:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(data)
        write(data)
