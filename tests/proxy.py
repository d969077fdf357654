"""A TCP proxy for tests: forwards to a server, and cuts or holds the connections when told to."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeVar

T = TypeVar("T")
_CHUNK_BYTES = 64 * 1024
_Where = Literal["before", "behind", "hold", "watch"] | int


@dataclass(kw_only=True)
class _Trap:
    """Waits for `marker` from a client; then cuts before it, behind it or so many bytes into the answer, or holds.

    With `holds` it holds so many bytes into the answer, and does not cut.
    """

    marker: bytes
    where: _Where
    done: "Future[None]"
    holds: bool = False


class _Link:
    """One client's connection and ours to the server."""

    def __init__(self, up: asyncio.StreamWriter, down: asyncio.StreamWriter) -> None:
        self.up = up
        self.down = down
        self.trap: _Trap | None = None
        self.left = 0
        self.replied = 0

    def abort(self) -> None:
        """Resets both sides: neither gets another byte."""
        for writer in (self.down, self.up):
            writer.transport.abort()


class TcpProxy:
    """Listens on a free port of 127.0.0.1 and forwards to a server, in a thread of its own.

    All methods are for the test's thread. `cut` and `refuse` reset connections as a dead network or a killed
    server does; `hold` keeps them open and forwards nothing, as a silent cut does.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._trap: _Trap | None = None
        self._flowing = asyncio.Event()
        self._refusing = False
        self._server: asyncio.Server | None = None
        self.host = "127.0.0.1"
        self.port = 0
        self.connections = 0
        """How many connections clients have opened so far."""

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> int:
        """Resets every connection now; new ones are accepted. Returns how many there were."""
        return self._call(self._cut)

    def refuse(self) -> None:
        """Resets every connection, and each new one, until `accept`."""

        def refuse() -> None:
            self._refusing = True
            self._cut()

        self._call(refuse)

    def accept(self) -> None:
        """Forwards new connections again after `refuse`."""

        def accept() -> None:
            self._refusing = False

        self._call(accept)

    def hold(self) -> None:
        """Forwards nothing from now on; connections stay open."""
        self._call(self._flowing.clear)

    def release(self) -> None:
        """Forwards again what was held."""
        self._call(self._flowing.set)

    def cut_before(self, marker: bytes) -> "Future[None]":
        """Cuts the first connection on which a client sends `marker`, which the server does not get.

        Returns:
            A future that is done when the cut has happened.
        """
        return self._arm(marker, "before")

    def cut_behind(self, marker: bytes) -> "Future[None]":
        """Cuts the first connection on which a client sends `marker`, as soon as the server has been sent it.

        Returns:
            A future that is done when the cut has happened.
        """
        return self._arm(marker, "behind")

    def hold_before(self, marker: bytes) -> "Future[None]":
        """Holds, as `hold` does, as soon as a client sends `marker`, which the server gets after `release`.

        Returns:
            A future that is done when it holds.
        """
        return self._arm(marker, "hold")

    def cut_after(self, marker: bytes, reply_bytes: int) -> "Future[None]":
        """Cuts the first connection on which a client sends `marker`, in the middle of the server's answer.

        What the server sends after the marker passed is counted; the byte after `reply_bytes` of them, and all
        that follow, are lost. A test that lets more bytes pass than the server sends cuts nothing.

        Returns:
            A future that is done when the cut has happened.
        """
        return self._arm(marker, reply_bytes)

    def hold_after(self, marker: bytes, reply_bytes: int) -> "Future[None]":
        """Holds, as `hold` does, so many bytes into the server's answer to what a client sends with `marker`.

        Returns:
            A future that is done when it holds.
        """
        return self._arm(marker, reply_bytes, holds=True)

    def watch_for(self, marker: bytes) -> "Future[None]":
        """Touches nothing.

        Returns:
            A future that is done when a client has sent `marker` and the server has been sent it.
        """
        return self._arm(marker, "watch")

    def disarm(self) -> int | None:
        """Forgets a cut that was ordered; returns how many bytes the server sent after the marker, if it came."""

        def disarm() -> int | None:
            replied = [link.replied for link in self._links if link.trap is not None]
            for link in self._links:
                link.trap = None
            self._trap = None
            return replied[0] if replied else None

        return self._call(disarm)

    # --- on the proxy's thread ----------------------------------------------------------------------------

    def _arm(self, marker: bytes, where: _Where, *, holds: bool = False) -> "Future[None]":
        trap = _Trap(marker=marker, where=where, done=Future(), holds=holds)

        def arm() -> None:
            self._trap = trap

        self._call(arm)
        return trap.done

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return self._run(call())

    def _run(self, coroutine: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _start(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._accepted, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._flowing.set()
        self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cut(self) -> int:
        links, self._links = self._links, set()
        for link in links:
            link.abort()
        return len(links)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            return
        link = _Link(up_writer, writer)
        self._links.add(link)
        try:
            await asyncio.gather(self._pump_up(link, reader), self._pump_down(link, up_reader))
        except OSError:
            pass  # one side went away, so both do
        finally:
            self._links.discard(link)
            link.abort()

    async def _pump_up(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._flowing.wait()
            trap = self._trap
            if trap is not None and trap.marker in data:
                self._trap = None
                if trap.where == "before":
                    self._spring(link, trap)
                    return
                if trap.where == "behind":
                    link.up.write(data)
                    await link.up.drain()
                    self._spring(link, trap)
                    return
                if trap.where == "watch":
                    link.up.write(data)
                    await link.up.drain()
                    trap.done.set_result(None)
                    continue
                if trap.where == "hold":
                    self._flowing.clear()
                    trap.done.set_result(None)
                    await self._flowing.wait()
                else:
                    link.trap, link.left, link.replied = trap, trap.where, 0
            link.up.write(data)
            await link.up.drain()
        # The client closed: half-open connections are of no use to a test.
        link.abort()

    async def _pump_down(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._flowing.wait()
            trap = link.trap
            if trap is not None:
                link.replied += len(data)
                if len(data) > link.left:
                    link.down.write(data[: link.left])
                    await link.down.drain()
                    if not trap.holds:
                        self._spring(link, trap)
                        return
                    link.trap, data = None, data[link.left :]
                    self._flowing.clear()
                    trap.done.set_result(None)
                    await self._flowing.wait()
                link.left -= len(data)
            link.down.write(data)
            await link.down.drain()
        link.abort()

    def _spring(self, link: _Link, trap: _Trap) -> None:
        # Closed and not reset: a reset would also destroy what was let through and not yet read.
        link.trap = None
        link.down.close()
        link.up.close()
        trap.done.set_result(None)
