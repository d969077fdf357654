"""/metrics, /livez and /readyz for programs; /status.json, and a page that shows it at /."""

import base64
import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from consumer.errors import Misconfigured


@dataclass(frozen=True, kw_only=True)
class Health:
    """What a probe is told: whether it is well, and the reason in words."""

    ok: bool
    reason: str


Status = Callable[[], Awaitable[dict[str, object]]]

_SAFE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    *,
    registry: CollectorRegistry,
    live: Callable[[], Health],
    ready: Callable[[], Health],
    status: Status,
) -> AsyncGenerator[int]:
    """Serves the pages until the block ends; gives the port that is bound.

    Raises:
        Misconfigured: the address can't be bound.
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def probe(check: Callable[[], Health]) -> Callable[[web.Request], "web.Response"]:
        def answer(_: web.Request) -> web.Response:
            health = check()
            return web.json_response(
                {"ok": health.ok, "reason": health.reason}, status=200 if health.ok else 503
            )

        return answer

    async def livez(request: web.Request) -> web.Response:
        return probe(live)(request)

    async def readyz(request: web.Request) -> web.Response:
        return probe(ready)(request)

    page = read_page()
    page_headers = _SAFE | {"Content-Security-Policy": policy_of(page), "X-Frame-Options": "DENY"}

    async def index(_: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html", headers=page_headers)

    async def status_json(_: web.Request) -> web.Response:
        return web.json_response(await status(), headers=_SAFE)

    application = web.Application(client_max_size=1024)
    application.add_routes(
        [
            web.get("/", index),
            web.get("/status.json", status_json),
            web.get("/metrics", metrics),
            web.get("/livez", livez),
            web.get("/readyz", readyz),
        ]
    )
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise Misconfigured(
                f"{host}:{port} can't be bound for /metrics and the probes: {error.strerror or error}",
                hint="choose another LOTUS_HTTP_PORT (0 takes a free one) or LOTUS_HTTP_HOST",
            ) from error
        addresses = runner.addresses
        yield int(addresses[0][1])
    finally:
        await runner.cleanup()


def read_page() -> str:
    """The page that shows /status.json."""
    return files("consumer").joinpath("status.html").read_text(encoding="utf-8")


def policy_of(page: str) -> str:
    """The Content-Security-Policy that lets a page's own style and script work, by their hashes, and nothing else."""
    style, script = (
        " ".join(f"'sha256-{_hash(text)}'" for text in re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL))
        for tag in ("style", "script")
    )
    return (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
