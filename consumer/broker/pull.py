"""Claiming the messages of one subscription."""

import asyncio
import json
import time

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

_ANSWER_S = 0.5
_GAP_S = 0.05


class Pull:
    """Requests for the messages of one subscription, one at a time.

    nats-py's own `fetch` takes the end of an earlier request for that of the present one, and then stands still
    for its whole timeout while messages wait (measured: 5 s, once in some hundred fetches). Here each request has
    a reply subject of its own, so that its end is told from others'.
    """

    def __init__(self, client: Client, api_subject: str, *, kept_s: float) -> None:
        self._client = client
        self._api_subject = api_subject
        self._kept_s = kept_s
        self._inbox = client.new_inbox()
        self._arrived: asyncio.Queue[tuple[float, Msg]] = asyncio.Queue()
        self._turn = asyncio.Lock()
        self._requests = 0
        self._subscription: Subscription | None = None

    async def fetch(self, batch: int, timeout_s: float) -> list[Msg]:
        """Claim up to `batch` messages; wait up to `timeout_s` for the first one."""
        async with self._turn:
            if self._subscription is None:
                self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._keep)
            # First what is there. Only if that is nothing, wait for one message and see what came with it.
            found = self._late(batch) or await self._ask(batch, expires_s=None)
            if not found and timeout_s > 0:
                found = await self._ask(1, expires_s=timeout_s)
                if found and batch > 1:
                    found += await self._ask(batch - 1, expires_s=None)
            return found

    async def give_back(self) -> None:
        """End the subscription, and the claims of messages that nobody fetched: they came in a cancelled fetch."""
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.drain()
        while not self._arrived.empty():
            arrived_at, message = self._arrived.get_nowait()
            if _status(message) is None and time.monotonic() - arrived_at < self._kept_s:
                await self._client.publish(message.reply, b"-NAK")

    async def _keep(self, message: Msg) -> None:
        self._arrived.put_nowait((time.monotonic(), message))

    def _late(self, batch: int) -> list[Msg]:
        """Return messages that came after their fetch was over, unless their claim has ended since."""
        found: list[Msg] = []
        while len(found) < batch and not self._arrived.empty():
            arrived_at, message = self._arrived.get_nowait()
            if _status(message) is None and time.monotonic() - arrived_at < self._kept_s:
                found.append(message)
        return found

    async def _ask(self, batch: int, *, expires_s: float | None) -> list[Msg]:
        """Request messages: those that wait already, or the first ones that come within `expires_s`."""
        self._requests += 1
        reply = f"{self._inbox}.{self._requests}"
        mode = {"no_wait": True} if expires_s is None else {"expires": int(expires_s * 1e9)}
        await self._client.publish(
            self._api_subject, json.dumps({"batch": batch, **mode}).encode(), reply=reply
        )
        found: list[Msg] = []
        try:
            # A request may get no end from the server, as when the connection is lost, so a gap is one too.
            async with asyncio.timeout((expires_s or 0) + _ANSWER_S) as deadline:
                while len(found) < batch:
                    _, message = await self._arrived.get()
                    status = _status(message)
                    if status is None:
                        found.append(message)
                        deadline.reschedule(asyncio.get_running_loop().time() + _GAP_S)
                    elif message.subject == reply and status != "100":
                        _check_end(status)
                        break
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            for message in found:
                self._arrived.put_nowait((time.monotonic(), message))
            raise
        return found


def _status(message: Msg) -> str | None:
    """Return the code of a message that is a word of the server about a request, None for a real message."""
    return message.headers.get("Status") if message.headers and not message.reply else None


def _check_end(status: str) -> None:
    """Raise unless the code ends a request in the usual way: none left, time is up, or the server goes."""
    if status == "503":
        raise nats.errors.NoRespondersError
