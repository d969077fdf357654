"""/metrics, /livez and /readyz."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from consumer.errors import Misconfigured


@dataclass(frozen=True, kw_only=True)
class Health:
    """What a probe is told: whether it is well, and the reason in words."""

    ok: bool
    reason: str


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    *,
    registry: CollectorRegistry,
    live: Callable[[], Health],
    ready: Callable[[], Health],
) -> AsyncGenerator[int]:
    """Serves the three pages until the block ends; gives the port that is bound.

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

    application = web.Application(client_max_size=1024)
    application.add_routes(
        [web.get("/metrics", metrics), web.get("/livez", livez), web.get("/readyz", readyz)]
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
