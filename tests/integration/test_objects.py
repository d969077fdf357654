"""Objects in S3: facts and bytes of one answer, keys exactly as they are, errors named by the next move."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC
from hashlib import md5
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from consumer.embedded.identity import S3Identity, Tenant
from consumer.embedded.stack import Stack
from consumer.errors import Misconfigured, NeedsMending, NotFound, Unavailable, UnexpectedAnswer
from consumer.objects import BLOCK_BYTES, Bucket, open_bucket
from tests.proxy import TcpProxy

ODD_KEYS = (
    "raw/a b.parquet",
    "raw/a+b.parquet",
    "raw/a%20b.parquet",
    "raw/a%2Bb.parquet",
    "raw/100%.parquet",
    "raw/ünï/日本 語.parquet",
    "raw/e\u0301.parquet",
    "raw/\u00e9.parquet",
    "raw/😀.parquet",
    "raw/tab\t.parquet",
    "raw/control\x01.parquet",
    "raw/x&y<z>\"q'.parquet",
    "raw/year=2026/k?x#y.parquet",
    "raw/a:b;c,d@e$f~g*(h)!.parquet",
    "raw/[a]{b}|^`.parquet",
    "raw/trailing ",
)


def opened(
    tenant: Tenant,
    identity: S3Identity,
    *,
    bucket: str | None = None,
    endpoint: str | None = None,
    secret: str | None = None,
) -> AbstractAsyncContextManager[Bucket]:
    return open_bucket(
        endpoint=endpoint or tenant.endpoints.s3_url,
        access_key_id=identity.access_key_id,
        secret_access_key=secret or identity.secret_access_key,
        region="us-east-1",
        bucket=bucket or tenant.landing_bucket,
    )


@pytest.fixture
async def lander(tenant: Tenant) -> AsyncIterator[Bucket]:
    async with opened(tenant, tenant.lander) as bucket:
        yield bucket


@pytest.fixture
async def loader(tenant: Tenant) -> AsyncIterator[Bucket]:
    async with opened(tenant, tenant.loader) as bucket:
        yield bucket


def through(tenant: Tenant) -> TcpProxy:
    address = urlsplit(tenant.endpoints.s3_url)
    assert address.hostname is not None
    assert address.port is not None
    return TcpProxy(address.hostname, address.port)


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 7])
async def test_one_get_brings_the_bytes_and_their_facts(
    lander: Bucket, loader: Bucket, tmp_path: Path, size_bytes: int
) -> None:
    body = bytes(range(256)) * (size_bytes // 256) + bytes(size_bytes % 256)
    etag = await lander.put("raw/a.parquet", body)
    assert etag == md5(body, usedforsecurity=False).hexdigest()

    async with loader.open("raw/a.parquet") as answer:
        await answer.save(tmp_path / "a")

    assert (tmp_path / "a").read_bytes() == body
    assert (answer.etag, answer.size_bytes, answer.version_id) == (etag, size_bytes, None)
    assert answer.last_modified.tzinfo is UTC
    assert await loader.head("raw/a.parquet") == answer.facts


async def test_saving_again_replaces_what_an_attempt_left(
    lander: Bucket, loader: Bucket, tmp_path: Path
) -> None:
    await lander.put("raw/a", b"new")
    (tmp_path / "a").write_bytes(b"what an attempt left")

    async with loader.open("raw/a") as answer:
        await answer.save(tmp_path / "a")

    assert (tmp_path / "a").read_bytes() == b"new"


async def test_an_answer_is_of_the_version_that_was_there_when_it_was_asked_for(
    lander: Bucket, loader: Bucket, tmp_path: Path
) -> None:
    first, second = b"1" * 2 * BLOCK_BYTES, b"2" * 2 * BLOCK_BYTES
    etag = await lander.put("raw/a", first)

    async with loader.open("raw/a") as answer:
        assert await lander.put("raw/a", second) != etag
        await answer.save(tmp_path / "a")

    assert answer.etag == etag
    assert (tmp_path / "a").read_bytes() == first


async def test_an_answer_that_nobody_reads_gives_its_connection_back(tenant: Tenant, lander: Bucket) -> None:
    await lander.put("raw/a", b"x" * 8 * BLOCK_BYTES)
    async with open_bucket(
        endpoint=tenant.endpoints.s3_url,
        access_key_id=tenant.loader.access_key_id,
        secret_access_key=tenant.loader.secret_access_key,
        region="us-east-1",
        bucket=tenant.landing_bucket,
        max_connections=1,
    ) as loader:
        for _ in range(5):
            async with loader.open("raw/a") as answer:
                assert answer.size_bytes == 8 * BLOCK_BYTES


async def test_keys_come_back_from_a_listing_exactly_as_they_are(lander: Bucket, loader: Bucket) -> None:
    etags = {key: await lander.put(key, key.encode()) for key in ODD_KEYS}

    listed = {each.key: each async for each in loader.list("raw/")}

    assert set(listed) == set(ODD_KEYS)
    assert {key: each.etag for key, each in listed.items()} == etags
    assert {key: each.size_bytes for key, each in listed.items()} == {
        key: len(key.encode()) for key in ODD_KEYS
    }
    for key in ODD_KEYS:
        facts = await loader.head(key)
        assert facts.etag == etags[key]
        assert facts.last_modified == listed[key].last_modified
        assert listed[key].last_modified.tzinfo is UTC


@pytest.mark.parametrize("key", ODD_KEYS)
async def test_an_odd_key_is_a_prefix_of_its_own(lander: Bucket, key: str) -> None:
    await lander.put(key, b"")
    await lander.put("raw/other", b"")

    assert [each.key async for each in lander.list(key)] == [key]


async def test_a_listing_has_every_key_of_many_pages_once(lander: Bucket) -> None:
    # A folder whose name is the beginning of its sibling's: SeaweedFS walks folders, not keys in order.
    keys = [f"sort/{folder}/{number:04d}" for folder in ("a", "a-b", "a b", "ab") for number in range(300)]
    for key in keys:
        await lander.put(key, b"")
    await lander.put("other/x", b"")

    listed = [each.key async for each in lander.list("sort/")]

    assert len(keys) > 1000
    assert sorted(listed) == sorted(keys)


async def test_a_key_with_a_line_break_is_its_own_trouble(
    tenant: Tenant, stack: Stack, loader: Bucket
) -> None:
    async with opened(tenant, stack.admin) as bucket:
        await bucket.put("raw/new\nline", b"x")
        assert (await bucket.head("raw/new\nline")).size_bytes == 1

    assert [each.key async for each in loader.list("raw/")] == ["raw/new\nline"]
    with pytest.raises(UnexpectedAnswer, match="403"):
        async with loader.open("raw/new\nline"):
            pass


async def test_a_listing_of_nothing_is_empty(loader: Bucket) -> None:
    assert [each async for each in loader.list("none/")] == []


async def test_a_key_that_is_not_there_is_not_found(lander: Bucket, loader: Bucket) -> None:
    await lander.put("raw/folder/x", b"")

    for key in ("raw/none", "raw/folder", "raw/none/"):
        with pytest.raises(NotFound):
            async with loader.open(key):
                pass
        with pytest.raises(NotFound):
            await loader.head(key)


async def test_a_deleted_key_is_not_found(lander: Bucket, loader: Bucket) -> None:
    await lander.put("raw/a", b"x")
    await lander.delete("raw/a")
    await lander.delete("raw/a")

    with pytest.raises(NotFound):
        await loader.head("raw/a")


async def test_a_missing_bucket_is_the_services_trouble_and_never_a_keys(
    tenant: Tenant, stack: Stack
) -> None:
    async with opened(tenant, stack.admin, bucket=f"{tenant.name}-none") as bucket:
        assert not await bucket.exists()
        for attempt in attempts(bucket):
            with pytest.raises(NeedsMending, match="create the bucket") as caught:
                await attempt()
            assert (caught.value.dependency, caught.value.code) == ("s3", "NoSuchBucket")


async def test_wrong_keys_are_the_services_trouble_and_say_the_cure(tenant: Tenant) -> None:
    async with opened(tenant, tenant.loader, secret="wrong") as bucket:
        with pytest.raises(NeedsMending, match="SECRET_ACCESS_KEY") as caught:
            async with bucket.open("raw/a"):
                pass
        assert "wrong" not in str(caught.value)
        for attempt in (*attempts(bucket), bucket.exists):
            with pytest.raises(NeedsMending):
                await attempt()
        with pytest.raises(NeedsMending, match="it does not belong to the access key"):
            await bucket.exists()
    stranger = S3Identity(name="stranger", access_key_id="STRANGER", secret_access_key="x")
    async with opened(tenant, stranger) as bucket:
        with pytest.raises(NeedsMending, match="ACCESS_KEY_ID"):
            async with bucket.open("raw/a"):
                pass


def attempts(bucket: Bucket) -> tuple[Callable[[], Awaitable[object]], ...]:
    async def read() -> None:
        async with bucket.open("raw/a"):
            pass

    async def listing() -> None:
        async for _ in bucket.list("raw/"):
            pass

    return read, listing, lambda: bucket.head("raw/a")


async def test_the_loader_may_not_write_where_it_only_reads(loader: Bucket) -> None:
    with pytest.raises(NeedsMending, match="policy") as caught:
        await loader.put("raw/a", b"")
    assert caught.value.code == "AccessDenied"


async def test_only_who_may_delete_is_said_to(tenant: Tenant, lander: Bucket, loader: Bucket) -> None:
    assert await lander.may_delete("raw/probe")
    assert not await loader.may_delete("raw/probe")
    async with opened(tenant, tenant.loader, bucket=tenant.lake_bucket) as lake:
        await lake.put("data/a", b"x")
        assert not await lake.may_delete("data/probe")
        assert not await lake.may_delete("data/a")
        assert (await lake.head("data/a")).size_bytes == 1
    async with opened(tenant, tenant.janitor, bucket=tenant.lake_bucket) as lake:
        assert await lake.may_delete("data/probe")
    async with opened(tenant, tenant.loader, secret="wrong") as bucket:
        with pytest.raises(NeedsMending):
            await bucket.may_delete("raw/probe")


async def test_a_key_that_the_server_refuses_is_an_answer_without_a_name(lander: Bucket) -> None:
    with pytest.raises(UnexpectedAnswer, match="HTTP 400"):
        await lander.put("raw/../x", b"")


@pytest.mark.parametrize("lost_bytes", [1, 100, BLOCK_BYTES, 3 * BLOCK_BYTES - 1])
async def test_a_half_answer_is_no_answer(
    tenant: Tenant, lander: Bucket, tmp_path: Path, lost_bytes: int
) -> None:
    await lander.put("raw/cut", b"x" * 3 * BLOCK_BYTES)
    with through(tenant) as proxy:
        async with opened(tenant, tenant.loader, endpoint=f"http://127.0.0.1:{proxy.port}") as bucket:
            proxy.cut_after(b"GET /", 2**40)
            async with bucket.open("raw/cut") as answer:
                await answer.save(tmp_path / "whole")
            answer_bytes = proxy.disarm()
            assert answer_bytes is not None
            assert answer_bytes > 3 * BLOCK_BYTES

            cut = proxy.cut_after(b"GET /", answer_bytes - lost_bytes)
            async with bucket.open("raw/cut") as answer:
                assert answer.size_bytes == 3 * BLOCK_BYTES
                with pytest.raises(Unavailable) as caught:
                    await answer.save(tmp_path / "half")
            assert cut.done()
            assert caught.value.dependency == "s3"
            assert not isinstance(caught.value, NeedsMending)


async def test_a_listing_that_breaks_off_says_so(tenant: Tenant, lander: Bucket) -> None:
    for number in range(20):
        await lander.put(f"raw/{number}", b"")
    with through(tenant) as proxy:
        async with opened(tenant, tenant.loader, endpoint=f"http://127.0.0.1:{proxy.port}") as bucket:
            cut = proxy.cut_after(b"list-type=2", 1000)
            assert len([each async for each in bucket.list("raw/")]) == 20  # the second try
            assert cut.done()
            proxy.refuse()
            with pytest.raises(Unavailable):
                assert [each async for each in bucket.list("raw/")]


async def test_a_server_that_is_away_is_unavailable_and_back_is_back(tenant: Tenant, lander: Bucket) -> None:
    await lander.put("raw/a", b"x")
    with through(tenant) as proxy:
        async with opened(tenant, tenant.loader, endpoint=f"http://127.0.0.1:{proxy.port}") as bucket:
            proxy.refuse()
            for attempt in (*attempts(bucket), bucket.exists):
                with pytest.raises(Unavailable):
                    await attempt()
            proxy.accept()
            assert (await bucket.head("raw/a")).size_bytes == 1


async def test_an_endpoint_that_is_no_url_is_refused(tenant: Tenant) -> None:
    with pytest.raises(Misconfigured, match="no-url") as caught:
        async with opened(tenant, tenant.loader, endpoint="no-url"):
            pass
    assert "LOTUS_S3_ENDPOINT" in caught.value.hint


async def test_the_machines_own_aws_settings_change_nothing(
    tenant: Tenant, lander: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await lander.put("raw/a", b"x")
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:9\nregion = nowhere-1\n")
    for name, value in {
        "AWS_PROFILE": "none",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_SESSION_TOKEN": "none",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)

    async with opened(tenant, tenant.loader) as bucket:
        assert (await bucket.head("raw/a")).size_bytes == 1
