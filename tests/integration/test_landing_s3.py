"""`lotus-lake land` into a real bucket: what is there afterwards is the last content of every key."""

import asyncio
import json
from pathlib import Path

import typer
from typer.testing import CliRunner, Result

from consumer.cli.land import land
from consumer.embedded.identity import Tenant
from consumer.landing.generate import Landing
from consumer.objects import open_bucket

SEED = 4
FILES = 120
"""Enough for keys that are written again, and for names that have to be quoted."""


def run(tenant: Tenant, *arguments: str, secret: str | None = None, endpoint: str | None = None) -> Result:
    app = typer.Typer()
    app.command()(land)
    connection = {
        "--endpoint": endpoint or tenant.endpoints.s3_url,
        "--access-key-id": tenant.lander.access_key_id,
        "--secret-access-key": secret or tenant.lander.secret_access_key,
        "--bucket": tenant.landing_bucket,
        "--rows": "2-9",
    }
    options = [text for option in connection.items() for text in option]
    return CliRunner().invoke(app, [*options, *arguments])


async def read_bucket(tenant: Tenant, folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    async with open_bucket(
        endpoint=tenant.endpoints.s3_url,
        access_key_id=tenant.loader.access_key_id,
        secret_access_key=tenant.loader.secret_access_key,
        region="us-east-1",
        bucket=tenant.landing_bucket,
    ) as bucket:
        async for listed in bucket.list("raw/"):
            path = folder / str(len(found))
            async with bucket.open(listed.key) as answer:
                await answer.save(path)
            found[listed.key] = path.read_bytes()
    return found


def test_the_bucket_holds_the_last_content_of_every_key(tenant: Tenant, tmp_path: Path) -> None:
    landing = Landing(seed=SEED, files=FILES, rows=(2, 9))
    expected = {file.key: file.body for file in landing}
    assert len(expected) < FILES
    assert any(" " in key for key in expected)
    assert any("+" in key for key in expected)

    result = run(tenant, "--seed", str(SEED), "--files", str(FILES), "--concurrency", "8", "--json")

    assert result.exit_code == 0, result.output
    assert asyncio.run(read_bucket(tenant, tmp_path)) == expected
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["files"], summary["objects"]) == (FILES, len(expected))
    assert summary["fct_sales_rows_expected"] == len(landing.expected_sales())
    assert len(summary["streams"]) == 9
    assert sum(each["rows"] for each in summary["streams"].values()) == sum(
        each.rows for each in landing.objects.values()
    )


def test_a_refused_or_missing_service_is_said_with_exit_status_3(tenant: Tenant) -> None:
    refused = run(tenant, "--files", "1", secret="wrong")
    assert refused.exit_code == 3
    assert "SignatureDoesNotMatch" in refused.stderr
    nobody = run(tenant, "--files", "1", endpoint="http://127.0.0.1:9")
    assert nobody.exit_code == 3
    assert "s3: " in nobody.stderr


def test_wrong_usage_has_exit_status_2(tenant: Tenant) -> None:
    for rows in ("none", "0", "9-2", "-5"):
        assert run(tenant, "--files", "1", "--rows", rows).exit_code == 2
    assert run(tenant, "--files", "0").exit_code == 2
