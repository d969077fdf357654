"""1. One key: a PUT, and the object's rows are in staging, its name in the ledger, the cursor on it."""

from tests.service import RunningService, order_key, orders


def test_an_object_that_lands_is_in_staging_ledger_and_cursor(service: RunningService) -> None:
    # Airbyte writes an object. Nothing else is told to anyone: the consumer hears of it from SeaweedFS's filer.
    key = order_key("one")
    with service.expecting(loaded=1):
        etag = service.put(key, orders(101, 102, financial_status="paid"))

    # Its rows are in the stream's staging table, with the partition that its key names, and the key itself.
    assert service.rows(
        "SELECT id, financial_status, year, month, day, _source_file FROM staging.stg_shopify__orders ORDER BY id"
    ) == [
        (101, "paid", 2026, "07", "04", key),
        (102, "paid", 2026, "07", "04", key),
    ]

    # The ledger says which version of which object that was.
    assert service.rows("SELECT bucket, key, etag, rows, action FROM meta.feeder_files") == [
        (service.tenant.landing_bucket, key, etag, 2, "loaded")
    ]

    # The stream's cursor stands on the key. All three were one transaction, so they always agree.
    assert service.rows(
        "SELECT cursor_path, files, rows FROM meta.feeder_cursors WHERE source = 'shopify' AND stream = 'orders'"
    ) == [(key, 1, 2)]
