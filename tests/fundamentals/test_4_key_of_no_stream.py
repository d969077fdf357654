"""4. A key of no stream: nothing is loaded, and nothing is dropped without a word."""

import json

from tests.service import RunningService, order_key, orders


def test_a_key_of_no_stream_is_a_dead_letter(service: RunningService) -> None:
    # A stream that `ddl/` doesn't know, a layout that no stream has, and a date that never was.
    strangers = [
        "raw/shopify/gift_cards/year=2026/month=07/day=04/a.parquet",
        "raw/shopify/orders/a.parquet",
        "raw/shopify/orders/year=2026/month=02/day=30/a.parquet",
    ]
    with service.expecting(loaded=1, unrouted=3):
        for key in strangers:
            service.put(key, orders(401))
        service.put(order_key("known"), orders(402))

    failures = service.rows(
        "SELECT key, source, stream, reason, detail FROM meta.feeder_failures"
        " WHERE reason = 'unrouted' ORDER BY key"
    )
    assert [failure[:4] for failure in failures] == [
        (key, None, None, "unrouted") for key in sorted(strangers)
    ]
    assert "no stream" in json.loads(str(failures[0][4]))["error"]
    assert service.rows("SELECT id FROM staging.stg_shopify__orders WHERE id BETWEEN 400 AND 499") == [(402,)]
