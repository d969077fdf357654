"""One connection to NATS that comes back by itself. Every error of the client is classified here, once."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import NoReturn

import nats.errors
from nats.aio.client import Client
from nats.js import errors as js_errors

from consumer.broker.config import BrokerConfig
from consumer.errors import BrokerMisconfigured, LotusError, Unavailable

_RECONNECT_WAIT_S = 1
_NO_STORAGE = (10023, 10047)
_DENIED = ("permissions violation", "authorization violation")


class Connection:
    """A client of nats-py, replaced by a new one when the server closed it for good.

    Attributes:
        client: the present client, connected or trying to be.
        js: its JetStream context.
        closed: set when this client is closed for good.
    """

    def __init__(self, config: BrokerConfig, renewed: Callable[[], None]) -> None:
        self.config = config
        self.client = Client()
        self.js = self.client.jetstream()
        self.closed = asyncio.Event()
        self._renewed = renewed
        self._renewal = asyncio.Lock()
        self._closing = False
        self._last_error = ""
        self._denied = ""

    def closing(self) -> None:
        """Open no client any more."""
        self._closing = True

    async def open(self) -> None:
        """Connect the client that we hold, or close it and raise."""
        config = self.config
        self._denied = self._last_error = ""
        closed = self.closed = asyncio.Event()

        async def on_closed() -> None:
            closed.set()

        connecting = asyncio.create_task(
            self.client.connect(
                servers=config.url.split(","),
                user=config.user,
                password=config.password,
                name=config.client_name,
                error_cb=self._on_error,
                closed_cb=on_closed,
                max_reconnect_attempts=-1,  # the default gives up after 60
                reconnect_time_wait=_RECONNECT_WAIT_S,
                connect_timeout=2,
                ping_interval=5,  # a silent cut is noticed within 15 s
                max_outstanding_pings=2,
            )
        )
        try:
            async with asyncio.timeout(config.connect_timeout_s):
                while not connecting.done() and not self._denied:
                    await asyncio.wait({connecting}, timeout=0.05)
                if not self._denied:
                    await connecting
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._raise_classified("connect", error)
        finally:
            if not self.client.is_connected:
                connecting.cancel()
                await asyncio.wait({connecting})
                await self.client.close()
        if self._denied:
            self._raise_classified("connect", nats.errors.AuthorizationError())

    async def _reopen(self) -> None:
        """Start again with a new client: some of the server's errors close nats-py's for good."""
        async with self._renewal:
            if self._closing:
                raise Unavailable("nats", "the connection is closed")
            if self.client.is_closed:
                self.client = Client()
                self.js = self.client.jetstream()
                self._renewed()
                await self.open()

    async def _on_error(self, error: Exception) -> None:
        self._last_error = str(error) or type(error).__name__
        if any(word in self._last_error.lower() for word in _DENIED):
            self._denied = self._last_error

    @contextlib.asynccontextmanager
    async def request(self, what: str) -> AsyncGenerator[None]:
        """Classify every error of the client in the block."""
        try:
            if self.client.is_closed:
                await self._reopen()
            yield
        except LotusError:
            raise
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._raise_classified(what, error)

    def require_heard(self, what: str, subject: str) -> None:
        """Raise BrokerMisconfigured if the server has refused a subscription, of which nothing else tells."""
        if subject.lower() in self._denied.lower():
            self._raise_classified(what, nats.errors.AuthorizationError())

    def _raise_classified(self, what: str, error: Exception) -> NoReturn:
        denied, self._denied = self._denied, ""
        if denied:
            raise BrokerMisconfigured(
                f"NATS refuses us ({what}): {denied}",
                hint="set LOTUS_NATS_USER and LOTUS_NATS_PASSWORD to a user that may use "
                f"{self.config.namespace}.>, $JS.API.>, $JS.ACK.>, $KV.>, $SRV.> and _INBOX.>, or"
                " what deploy/nats/nats.conf allows",
            ) from error
        if isinstance(error, nats.errors.MaxPayloadError):
            raise BrokerMisconfigured(
                f"{what}: larger than the server's max_payload of {self.client.max_payload:,} bytes",
                hint="set max_payload: 8MB in the NATS server's configuration",
            ) from error
        if isinstance(error, js_errors.APIError):
            text = f"{what}: {error.description} (code {error.err_code})"
            if error.err_code in _NO_STORAGE:
                raise BrokerMisconfigured(
                    text, hint="raise the server's max_file_store, or lower our js_streams' max_bytes"
                ) from error
            if isinstance(error, js_errors.BadRequestError):
                raise BrokerMisconfigured(
                    text,
                    hint="look at what else uses these names on the server, or set another LOTUS_NAMESPACE",
                ) from error
            raise Unavailable("nats", text) from error
        if isinstance(error, js_errors.NoStreamResponseError | nats.errors.NoRespondersError):
            text = (
                "nothing answers there: JetStream starts or is off, or the js_stream or subscription is gone"
            )
        else:
            text = self._last_error if isinstance(error, TimeoutError) else ""
            text = text or str(error) or f"no answer in {self.config.request_timeout_s:g} s"
        raise Unavailable("nats", f"{what}: {text}") from error
