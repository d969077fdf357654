"""3. A broken file: it becomes a dead letter that says why, and the others load."""

from tests.service import RunningService, order_key, orders

OPEN_FAILURES = (
    "SELECT key, etag, reason, attempts FROM meta.feeder_failures"
    " WHERE resolved_at IS NULL AND key LIKE '%/3-%' ORDER BY key"
)


def test_a_broken_file_is_a_dead_letter_and_stops_nobody(service: RunningService) -> None:
    whole = orders(301, 302)
    cut, text, good = order_key("3-cut"), order_key("3-text"), order_key("3-good")
    with service.expecting(loaded=1, poison=2):
        cut_etag = service.put(cut, whole[:-20])
        text_etag = service.put(text, b"id,name\n1,a line of CSV\n")
        service.put(good, whole)

    # The good one is in the lake, and nothing of the others is.
    assert service.rows("SELECT key FROM meta.feeder_files WHERE key LIKE '%/3-%'") == [(good,)]
    assert service.rows(
        "SELECT DISTINCT _source_file FROM staging.stg_shopify__orders WHERE id BETWEEN 300 AND 399"
    ) == [(good,)]

    # Trying again can't mend a broken file, so one attempt was enough. The reason is there to be read.
    assert service.rows(OPEN_FAILURES) == [
        (cut, cut_etag, "truncated", 1),
        (text, text_etag, "not_parquet", 1),
    ]

    # Airbyte writes the object again, whole this time: it loads, and that resolves its dead letter.
    with service.expecting(loaded=1):
        service.put(cut, whole)
    assert service.rows(OPEN_FAILURES) == [(text, text_etag, "not_parquet", 1)]
    assert service.rows("SELECT resolution FROM meta.feeder_failures WHERE key = ?", cut) == [("loaded",)]
