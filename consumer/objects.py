"""Objects in S3. The only module that imports aiobotocore; its errors are classified here, once.

NotFound is about a key. Everything else is about the service: no answer, a 5xx or a half answer is
Unavailable("s3"), and 401, 403 and NoSuchBucket are NeedsMending, which waits too but says the cure.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError

from consumer.errors import LotusError, Misconfigured, NeedsMending, NotFound, Unavailable, UnexpectedAnswer
from consumer.s3_get import CheckedBody, Getter, modified_at, open_getter

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import GetObjectOutputTypeDef, HeadObjectOutputTypeDef

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
"""The longest silence within an answer; not the time that a whole body may take."""
TRIES = 2
"""Retrying is the queue's work: a key that fails comes again later."""
BLOCK_BYTES = 1024 * 1024
"""How much of a body is held in memory, and written by one visit to a thread."""


class _Body(Protocol):
    """What an answer's body can do; aiobotocore's classes for it are untyped."""

    async def read(self, amt: int, /) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ListedObject:
    """What a listing says of an object. Folder markers (keys that end in a slash) are listed too."""

    key: str
    etag: str
    size_bytes: int
    last_modified: datetime


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an answer says of the object version that it carries. The etag has no quotes."""

    etag: str
    version_id: str | None
    size_bytes: int
    last_modified: datetime


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some bytes of an object, and the etag of the version that they are of."""

    etag: str
    body: bytes


class Answer:
    """The answer to one GET, its body not read yet: the facts are those of the very bytes that `save` reads."""

    def __init__(self, key: str, facts: Facts, body: _Body) -> None:
        self._key = key
        self._body = body
        self.facts = facts
        self.etag = facts.etag
        self.version_id = facts.version_id
        self.size_bytes = facts.size_bytes
        self.last_modified = facts.last_modified

    async def save(self, path: Path) -> None:
        """Writes the whole body to a new file, in blocks and off the event loop.

        Raises:
            Unavailable: the body ended early, differs from its checksum, or stopped coming.
            OSError: the file could not be written; see `Spool.reserve` for a full disk.
        """
        saved, mode = 0, "wb"
        while block := await self._read_block():
            saved += len(block)
            await _finish(asyncio.to_thread(_write, path, mode, block))
            mode = "ab"
        if saved != self.size_bytes:
            message = f"the answer for {self._key} had {saved} bytes, its header announced {self.size_bytes}"
            raise Unavailable("s3", message)
        if mode == "wb":
            await _finish(asyncio.to_thread(_write, path, mode, b""))

    async def _read_block(self) -> bytes:
        block = bytearray()
        with _classified(self._key):
            while len(block) < BLOCK_BYTES and (part := await self._body.read(BLOCK_BYTES - len(block))):
                block += part
        return bytes(block)


class Bucket:
    """One bucket, reached as one identity. Made by `open_bucket`; safe for many tasks of one event loop."""

    def __init__(self, client: "S3Client", name: str, getter: Getter) -> None:
        self._client = client
        self._getter = getter
        self.name = name

    async def put(self, key: str, body: bytes) -> str:
        """Writes an object in one request and returns its etag, without quotes."""
        with _classified(key):
            answer = await self._client.put_object(Bucket=self.name, Key=key, Body=body)
        return _plain_etag(answer["ETag"])

    @asynccontextmanager
    async def open(self, key: str) -> AsyncGenerator[Answer, None]:
        """Sends one GET and gives its answer; the body is read by `Answer.save`, inside the block.

        Raises:
            NotFound: the bucket has no such key.
            Unavailable: the service did not answer, or, as NeedsMending, refused us.
        """
        facts, body = await self._get_quickly(key) or await self._get(key)
        try:
            yield Answer(key, facts, body)
        finally:
            body.close()

    async def _get_quickly(self, key: str) -> tuple[Facts, _Body] | None:
        """A good answer to a plain GET; None for all others."""
        try:
            answer = await self._getter.get(self.name, key)
        except TimeoutError as error:
            raise Unavailable("s3", f"no answer in time: {error}") from error
        except (aiohttp.ClientError, OSError):
            return None
        if answer is None:
            return None
        try:
            return _facts_of_headers(answer), CheckedBody(answer)
        except ValueError:
            # A length or a date that is none: aiobotocore names what is wrong with it.
            answer.close()
            return None

    async def _get(self, key: str) -> tuple[Facts, _Body]:
        with _classified(key):
            answer = await self._client.get_object(Bucket=self.name, Key=key)
        return _facts(key, answer), cast("_Body", answer["Body"])

    async def head(self, key: str) -> Facts:
        """Asks for an object's facts without its body.

        Raises:
            NotFound: the bucket has no such key.
            Unavailable: the service did not answer, or, as NeedsMending, refused us.
        """
        try:
            with _classified(key):
                answer = await self._client.head_object(Bucket=self.name, Key=key)
        except NotFound:
            # The answer to a HEAD has no body that would tell a missing key from a missing bucket.
            if not await self.exists():
                raise _no_bucket(self.name) from None
            raise
        return _facts(key, answer)

    async def read_range(self, key: str, start: int, length: int) -> bytes:
        """Reads a part of an object, at most `length` bytes, into memory.

        Raises:
            NotFound: the bucket has no such key.
            Unavailable: the service did not answer, or, as NeedsMending, refused us.
        """
        return (await self._read_part(key, start, length)).body

    async def read_part(self, key: str, start: int, length: int) -> Part:
        """Does what `read_range` does in a third of the time, and says of which version it is."""
        last = start + length - 1
        with _classified(key):
            answer = await self._get_part_quickly(key, start, last)
            if answer is None:
                return await self._read_part(key, start, length)
            try:
                body = bytearray()
                while len(body) < length and (block := await answer.content.read(length - len(body))):
                    body += block
            finally:
                answer.close() if not answer.content.at_eof() else answer.release()
        if len(body) != int(answer.headers["Content-Length"]):
            raise Unavailable("s3", f"the answer for {key} had {len(body)} bytes of a part that has more")
        return Part(etag=_plain_etag(answer.headers["ETag"]), body=bytes(body))

    async def _get_part_quickly(self, key: str, start: int, last: int) -> aiohttp.ClientResponse | None:
        try:
            return await self._getter.get(self.name, key, part=(start, last))
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError):
            return None

    async def _read_part(self, key: str, start: int, length: int) -> Part:
        wanted = f"bytes={start}-{start + length - 1}"
        with _classified(key):
            answer = await self._client.get_object(Bucket=self.name, Key=key, Range=wanted)
            body = cast("_Body", answer["Body"])
            try:
                return Part(etag=_plain_etag(answer["ETag"]), body=await body.read(length))
            finally:
                body.close()

    async def list(self, prefix: str) -> AsyncIterator[ListedObject]:
        """Lists all objects whose keys begin with `prefix`, in the server's order, which is not that of the keys.

        Pages by continuation token only: SeaweedFS skips keys after a StartAfter.

        Raises:
            Unavailable: the listing broke off; what was given until then is a part of it.
        """
        token: str | None = None
        while True:
            with _classified(None):
                if token is None:
                    page = await self._client.list_objects_v2(Bucket=self.name, Prefix=prefix)
                else:
                    page = await self._client.list_objects_v2(
                        Bucket=self.name, Prefix=prefix, ContinuationToken=token
                    )
            for entry in page.get("Contents", []):
                yield ListedObject(
                    # botocore asks for URL-encoded keys, which XML could not hold otherwise, and decodes them.
                    key=entry["Key"],  # pyright: ignore[reportTypedDictNotRequiredAccess] - S3 always sends it
                    etag=_plain_etag(entry.get("ETag", "")),
                    size_bytes=entry.get("Size", 0),
                    last_modified=entry["LastModified"].astimezone(UTC),  # pyright: ignore[reportTypedDictNotRequiredAccess] - so too
                )
            if not page["IsTruncated"]:
                return
            following = page.get("NextContinuationToken")
            if not following or following == token:
                raise Unavailable(
                    "s3", f"the listing of {prefix} has more pages, but no token that leads to them"
                )
            token = following

    async def exists(self) -> bool:
        """Says whether the bucket exists and we may reach it."""
        try:
            with _classified(None):
                await self._client.head_bucket(Bucket=self.name)
        except NotFound:
            return False
        except NeedsMending:
            # The answer to a HEAD has no body: of what is wrong, only that to another request tells the name.
            with _classified(None):
                await self._client.list_objects_v2(Bucket=self.name, MaxKeys=1)
            raise
        return True

    async def delete(self, key: str) -> None:
        """Deletes an object; one that does not exist counts as deleted."""
        with _classified(key):
            await self._client.delete_object(Bucket=self.name, Key=key)

    async def may_delete(self, key: str) -> bool:
        """Proves whether this identity may delete, by deleting a key that nobody uses.

        Raises:
            Unavailable: the service did not answer, or refused us for another reason than our rights.
        """
        try:
            await self.delete(key)
        except NeedsMending as error:
            if error.code == "AccessDenied":
                return False
            raise
        return True


@asynccontextmanager
async def open_bucket(
    *,
    endpoint: str,
    access_key_id: str,
    secret_access_key: str,
    region: str,
    bucket: str,
    max_connections: int = 32,
) -> AsyncGenerator[Bucket, None]:
    """Opens a bucket without asking the service anything yet.

    Raises:
        Misconfigured: `endpoint` is not a URL.
    """
    session = AioSession(session_vars=_NOT_FROM_THE_MACHINE)
    session.register_component("data_loader", _LOADER)
    config = AioConfig(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": TRIES, "mode": "standard"},
        max_pool_connections=max_connections,
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        proxies={},
        # Checksums that an answer carries are checked; older servers don't know them on requests.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_supported",
        ignore_configured_endpoint_urls=True,
    )
    async with AsyncExitStack() as held:
        try:
            client = await held.enter_async_context(
                session.create_client(
                    "s3",
                    endpoint_url=endpoint,
                    region_name=region,
                    aws_access_key_id=access_key_id,
                    aws_secret_access_key=secret_access_key,
                    # Without TLS there is nothing to verify; to read all certificates takes 30 ms of a CPU.
                    verify=None if endpoint.lower().startswith("https:") else False,
                    config=config,
                )
            )
        except ValueError as error:
            hint = "set LOTUS_S3_ENDPOINT to a URL, e.g. http://127.0.0.1:8333"
            raise Misconfigured(f"the S3 endpoint {endpoint!r} is not a URL", hint=hint) from error
        getter = await held.enter_async_context(
            open_getter(
                endpoint=endpoint,
                access_key_id=access_key_id,
                secret_access_key=secret_access_key,
                region=region,
                max_connections=max_connections,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                read_timeout_s=READ_TIMEOUT_S,
            )
        )
        yield Bucket(client, bucket, getter)


@contextmanager
def _classified(key: str | None) -> Generator[None, None, None]:
    """Names the next move for what a request, or the reading of its body, raises."""
    try:
        yield
    except ClientError as error:
        raise classify(error, key) from error
    except (HTTPClientError, aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise Unavailable("s3", f"{type(error).__name__}: {error}") from error
    except (BotoCoreError, ResponseParserError) as error:
        # Half a body, a body unlike its checksum, an answer that is no S3 answer.
        raise Unavailable("s3", f"{type(error).__name__}: {error}") from error


# What the machine's AWS files and profile say is not about our endpoint: (name in a file, variable, default, type).
_NOT_FROM_THE_MACHINE = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}

_LOADER = create_loader()
"""What botocore's files say of S3. Each client would read them again, which takes 0.2 s of a CPU."""

_BUSY = ("SlowDown", "RequestTimeout", "Throttling")
_CURES = {
    "NoSuchBucket": "create the bucket, or mend the bucket's name in the settings",
    "InvalidAccessKeyId": "check LOTUS_S3_ACCESS_KEY_ID: the server does not know this key",
    "SignatureDoesNotMatch": "check LOTUS_S3_SECRET_ACCESS_KEY: it does not belong to the access key",
    "RequestTimeTooSkewed": "set the clocks of this machine and of the S3 server",
    "AccessDenied": "grant this identity what it lacks in the bucket's policy (README, Security)",
}


def classify(error: ClientError, key: str | None) -> LotusError:
    """Names the next move for an error that the server answered."""
    details = error.response.get("Error", {})
    code, text = details.get("Code", ""), details.get("Message", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = f"{error.operation_name} of {key!r}: " if key is not None else f"{error.operation_name}: "
    message += f"HTTP {status} {code} {text}".rstrip()
    if key is not None and "\n" in key and status == 403:
        # SeaweedFS matches no bucket policy with such a key: it alone is refused, and no waiting mends it.
        return UnexpectedAnswer(message)
    if code == "NoSuchBucket" or status in (401, 403):
        cure = _CURES.get(
            code, "check LOTUS_S3_ACCESS_KEY_ID, LOTUS_S3_SECRET_ACCESS_KEY and the rights of this identity"
        )
        return NeedsMending("s3", message, hint=cure, code=code)
    if status == 404:
        return NotFound(message)
    if status >= 500 or status in (408, 429) or code in _BUSY:
        return Unavailable("s3", message)
    return UnexpectedAnswer(message)


def _facts(key: str, answer: "GetObjectOutputTypeDef | HeadObjectOutputTypeDef") -> Facts:
    try:
        return Facts(
            etag=_plain_etag(answer["ETag"]),
            version_id=_version(answer.get("VersionId")),
            size_bytes=answer["ContentLength"],
            last_modified=answer["LastModified"].astimezone(UTC),
        )
    except KeyError as error:
        hint = "connect to the S3 server itself: a proxy between may recode its answers"
        raise NeedsMending("s3", f"the answer for {key!r} has no {error.args[0]}", hint=hint) from None


def _facts_of_headers(answer: aiohttp.ClientResponse) -> Facts:
    headers = answer.headers
    return Facts(
        etag=_plain_etag(headers["ETag"]),
        version_id=_version(headers.get("x-amz-version-id")),
        size_bytes=int(headers["Content-Length"]),
        last_modified=modified_at(answer).astimezone(UTC),
    )


def _no_bucket(name: str) -> NeedsMending:
    return NeedsMending("s3", f"there is no bucket {name}", hint=_CURES["NoSuchBucket"], code="NoSuchBucket")


def _plain_etag(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _version(version_id: str | None) -> str | None:
    """SeaweedFS and AWS say "null" for the version of an object in an unversioned bucket."""
    return None if version_id in (None, "", "null") else version_id


def _write(path: Path, mode: str, block: bytes) -> None:
    with path.open(mode) as file:
        file.write(block)


async def _finish(write: Coroutine[None, None, None]) -> None:
    """Waits for a thread's write even when cancelled: it would otherwise write to a file that is gone."""
    task = asyncio.create_task(write)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(OSError):
            await task
        raise
