"""The status page in a real browser, Debian's chromium: what it shows, and that it says when nobody answers.

Needs the program `chromium` (apt-get install chromium); without it these tests fail.
"""

import asyncio
import re
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from consumer.embedded.identity import Tenant
from consumer.http import Health, serve
from tests.service import order_key, orders, put_all, running_service

HOSTILE = order_key("<img src=x onerror=alert(1)>")
WELL = Health(ok=True, reason="writer")


def browse(url: str, folder: Path, *arguments: str, budget_ms: int = 4000) -> str:
    """Opens a page in a browser of its own profile; returns what it had become after so much of its time."""
    done = subprocess.run(
        [
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder}",
            f"--virtual-time-budget={budget_ms}",
            *arguments,
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_the_page_shows_streams_models_and_tables(tenant: Tenant, tmp_path: Path) -> None:
    with running_service(tenant) as service:
        with service.expecting(loaded=1, poison=1):
            put_all(tenant, {HOSTILE: orders(1, 2), order_key("bad"): b"no Parquet"})
        url = f"http://127.0.0.1:{service.service.http_port}/"
        picture = tmp_path / "page.png"
        page = browse(url, tmp_path / "one", f"--screenshot={picture}", "--window-size=420,900")
    assert "shopify.orders" in page
    assert "dead-lettering" in page
    assert "not_parquet 1" in page
    assert "fct_sales" in page
    assert "staging.stg_shopify__orders" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page, "a key is text"
    assert "<img" not in page
    assert is_hidden(page)


@pytest.mark.timeout(300)
async def test_the_page_says_when_the_service_does_not_answer(tmp_path: Path) -> None:
    asked = 0

    async def status() -> dict[str, object]:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise RuntimeError("away")
        return EMPTY

    page = await browse_served(status, tmp_path)
    assert asked > 1, "it refreshes itself"
    assert not is_hidden(page)
    assert "The service does not answer (HTTP 500). What is below is" in page
    assert re.search(r'<body class="stale">', page)


EMPTY: dict[str, object] = {
    "at": "2026-07-04T12:00:00.000000+00:00",
    "process": None,
    "streams": [],
    "models": None,
    "tables": None,
    "snapshots": None,
    "missing": [],
}


async def browse_served(status: Callable[[], Awaitable[dict[str, object]]], folder: Path) -> str:
    """Serves the page with this status, and looks at it for ten seconds of its time."""
    registry = CollectorRegistry()
    async with serve(
        "127.0.0.1", 0, registry=registry, live=lambda: WELL, ready=lambda: WELL, status=status
    ) as port:
        return await asyncio.to_thread(browse, f"http://127.0.0.1:{port}/", folder / "two", budget_ms=10_000)


def is_hidden(page: str) -> bool:
    """Whether the alarm is."""
    [alarm] = re.findall(r'<p id="alarm"[^>]*>', page)
    return "hidden" in alarm
