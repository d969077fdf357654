"""2. The same key twice: told twice it is loaded once; written again, its rows are replaced."""

from tests.service import RunningService, announce, order_key, orders

IDS = "SELECT id FROM staging.stg_shopify__orders WHERE id BETWEEN 200 AND 299 ORDER BY id"
HISTORY = "SELECT action, etag, rows FROM meta.feeder_files WHERE key = ? ORDER BY epoch, loaded_at"


def test_an_object_that_is_announced_again_is_loaded_once(service: RunningService) -> None:
    key = order_key("told-twice")
    with service.expecting(loaded=1):
        etag = service.put(key, orders(201, 202, 203))

    # Notifications are hints: one comes late, or on another way. The ledger knows this version of the object.
    with service.expecting(duplicate=1):
        assert announce(service.tenant, key)

    assert service.rows(IDS) == [(201,), (202,), (203,)]
    assert service.rows(HISTORY, key) == [("loaded", etag, 3)]


def test_an_object_that_is_written_again_replaces_its_rows(service: RunningService) -> None:
    key = order_key("written-again")
    with service.expecting(loaded=1):
        first = service.put(key, orders(204, 205))

    # Same key, other content, so another etag: the old rows go and the new ones come in one transaction.
    with service.expecting(replaced=1):
        second = service.put(key, orders(205, 206))

    # The other object's rows were not touched.
    assert service.rows(IDS) == [(201,), (202,), (203,), (205,), (206,)]
    assert service.rows(HISTORY, key) == [("loaded", first, 2), ("replaced", second, 2)]
