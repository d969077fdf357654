"""One GET, signed by botocore's signer and sent by aiohttp, without what aiobotocore does around it.

aiobotocore's own GET takes 3.0 ms of a CPU, this one 0.8 (docs/performance.md): of small files it is a third of all
that the event loop has to do. Only a good answer is used. Whatever else comes is asked again by aiobotocore, which
knows retries and errors.
"""

import base64
import hashlib
import ssl
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Protocol
from urllib.parse import quote

import aiohttp
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.httpsession import get_cert_path
from yarl import URL

_UNSIGNED = {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD", "x-amz-checksum-mode": "ENABLED"}


class Checksum(Protocol):
    """Takes the bytes of a body, one block after the other."""

    def update(self, block: bytes, /) -> None:
        """Takes the next bytes."""
        ...

    def digest(self) -> bytes:
        """The checksum of all bytes up to now."""
        ...


class Crc32:
    """The checksum that S3 calls CRC32."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, block: bytes, /) -> None:
        """Takes the next bytes."""
        self._value = zlib.crc32(block, self._value)

    def digest(self) -> bytes:
        """Four bytes, the greatest first."""
        return self._value.to_bytes(4, "big")


CHECKSUMS: Mapping[str, Callable[[], Checksum]] = {
    "x-amz-checksum-crc32": Crc32,
    "x-amz-checksum-sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "x-amz-checksum-sha256": lambda: hashlib.sha256(usedforsecurity=False),
}
"""Those that botocore checks without another package (https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html)."""


class CheckedBody:
    """A body that is held against the checksum which its answer carries, if it carries one."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self._checksum: Checksum | None = None
        self._expected = ""
        for header, algorithm in CHECKSUMS.items():
            expected = answer.headers.get(header)
            # One with a dash is of an upload in parts, and not that of the bytes.
            if expected is not None and "-" not in expected:
                self._checksum, self._expected = algorithm(), expected

    async def read(self, amount: int) -> bytes:
        """Reads at most so many bytes; none at the end.

        Raises:
            aiohttp.ClientError: it ended early, or differs from its checksum.
        """
        block = await self._answer.content.read(amount)
        if self._checksum is not None:
            self._checksum.update(block)
            if not block and base64.b64encode(self._checksum.digest()).decode() != self._expected:
                raise aiohttp.ClientPayloadError("the body differs from the checksum of its answer")
        return block

    def close(self) -> None:
        """Gives the connection back if the body was read to its end, and ends it if not."""
        self._answer.close() if not self._answer.content.at_eof() else self._answer.release()


class Getter:
    """Sends GETs to one endpoint as one identity. One event loop."""

    def __init__(
        self, session: aiohttp.ClientSession, endpoint: str, credentials: Credentials, region: str
    ) -> None:
        self._session = session
        self._endpoint = endpoint.rstrip("/")
        self._signer = S3SigV4Auth(credentials, "s3", region)

    async def get(
        self, bucket: str, key: str, *, part: tuple[int, int] | None = None
    ) -> aiohttp.ClientResponse | None:
        """Returns an answer with a body to read, or None: then aiobotocore has to ask.

        With `part` the body is of these bytes only, from the first to the last.

        Raises:
            TimeoutError, aiohttp.ClientError: no answer.
        """
        wanted = {} if part is None else {"Range": f"bytes={part[0]}-{part[1]}"}
        request = AWSRequest(
            "GET", f"{self._endpoint}/{quote(f'{bucket}/{key}', safe='/~')}", headers={**_UNSIGNED, **wanted}
        )
        request.context["payload_signing_enabled"] = False
        self._signer.add_auth(request)
        answer = await self._session.get(
            URL(str(request.url), encoded=True),
            headers={str(name): str(value) for name, value in request.headers.items()},
            allow_redirects=False,
        )
        if (
            answer.status == (200 if part is None else 206)
            and {"ETag", "Content-Length", "Last-Modified"} <= answer.headers.keys()
        ):
            return answer
        answer.release()
        return None


def modified_at(answer: aiohttp.ClientResponse) -> datetime:
    """When the object was written, as the answer says. Raises ValueError: it is no date."""
    return parsedate_to_datetime(answer.headers["Last-Modified"])


@asynccontextmanager
async def open_getter(
    *,
    endpoint: str,
    access_key_id: str,
    secret_access_key: str,
    region: str,
    max_connections: int,
    connect_timeout_s: float,
    read_timeout_s: float,
) -> AsyncGenerator[Getter, None]:
    """Opens connections when they are needed, and closes them at the end."""
    # The certificates that aiobotocore trusts.
    trusted = ssl.create_default_context(cafile=get_cert_path(True)) if _is_https(endpoint) else False
    async with AsyncExitStack() as held:
        session = await held.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=max_connections, ssl=trusted),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=connect_timeout_s, sock_read=read_timeout_s
                ),
                auto_decompress=False,
                skip_auto_headers=("Accept-Encoding", "User-Agent"),
            )
        )
        yield Getter(session, endpoint, Credentials(access_key_id, secret_access_key), region)


def _is_https(endpoint: str) -> bool:
    return endpoint.lower().startswith("https:")
