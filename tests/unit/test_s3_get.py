"""The lean GET: a body is held against the checksum of its answer, and what is no good answer is left to others."""

import base64
import hashlib
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web

from consumer.s3_get import CheckedBody, Getter, open_getter

BODY = b"rows" * 1000
Serve = Callable[[Mapping[str, str], int], Awaitable[Getter]]


def base64_of(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


CHECKSUMS = {
    "x-amz-checksum-crc32": base64_of(zlib.crc32(BODY).to_bytes(4, "big")),
    "x-amz-checksum-sha1": base64_of(hashlib.sha1(BODY, usedforsecurity=False).digest()),
    "x-amz-checksum-sha256": base64_of(hashlib.sha256(BODY).digest()),
}


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server that answers each GET with BODY, these headers and this status, and a getter for it."""
    async with AsyncExitStack() as held:

        async def start(headers: Mapping[str, str], status: int) -> Getter:
            async def answer(_: web.Request) -> web.Response:
                said = {"ETag": '"a"', "Last-Modified": "Wed, 25 Nov 2026 20:36:47 GMT", **headers}
                return web.Response(body=BODY, status=status, headers=said)

            app = web.Application()
            app.router.add_get("/{key:.*}", answer)
            runner = web.AppRunner(app)
            await runner.setup()
            held.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            return await held.enter_async_context(
                open_getter(
                    endpoint=f"http://{host}:{port}",
                    access_key_id="id",
                    secret_access_key="secret",
                    region="us-east-1",
                    max_connections=2,
                    connect_timeout_s=5,
                    read_timeout_s=5,
                )
            )

        yield start


async def whole(answer: aiohttp.ClientResponse | None) -> bytes:
    assert answer is not None
    body, found = CheckedBody(answer), b""
    while block := await body.read(1000):
        found += block
    body.close()
    return found


@pytest.mark.parametrize("header", CHECKSUMS)
async def test_a_body_like_its_checksum_is_given(serve: Serve, header: str) -> None:
    getter = await serve({header: CHECKSUMS[header]}, 200)
    assert await whole(await getter.get("bucket", "a key")) == BODY


@pytest.mark.parametrize("header", CHECKSUMS)
async def test_a_body_unlike_its_checksum_is_none(serve: Serve, header: str) -> None:
    getter = await serve({header: CHECKSUMS[header][::-1]}, 200)
    answer = await getter.get("bucket", "a key")
    with pytest.raises(aiohttp.ClientError, match="checksum"):
        await whole(answer)


async def test_a_checksum_of_parts_is_not_that_of_the_bytes(serve: Serve) -> None:
    getter = await serve({"x-amz-checksum-sha256": "abc-2"}, 200)
    assert await whole(await getter.get("bucket", "a key")) == BODY


@pytest.mark.parametrize("status", [301, 307, 403, 404, 503])
async def test_all_but_a_good_answer_is_left_to_who_knows_errors(serve: Serve, status: int) -> None:
    getter = await serve({}, status)
    assert await getter.get("bucket", "a key") is None
