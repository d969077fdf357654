"""A transaction's snapshot is the one after that which it sees, or it is not committed: model cursors stand on that."""

import pytest

from consumer.embedded.identity import Tenant
from feeders.errors import LakeConflict
from feeders.lake import Lake
from tests.probes import lake_of


def newest(lake: Lake) -> int:
    return int(lake.query("SELECT id FROM lakehouse.current_snapshot()")[0][0])


def test_it_is_the_next_one_or_a_conflict_even_between_two_tables(tenant: Tenant) -> None:
    with lake_of(tenant, "w-one") as one, lake_of(tenant, "w-two") as two:
        one.query("CREATE TABLE main.a (k BIGINT)")
        one.query("CREATE TABLE main.b (k BIGINT)")
        with one.transaction("alone") as transaction:
            seen = int(transaction.query("SELECT id FROM lakehouse.current_snapshot()")[0][0])
            transaction.change("INSERT INTO main.a VALUES (1)")
        assert newest(one) == seen + 1

        def overtaken() -> None:
            with one.transaction("overtaken") as transaction:
                transaction.change("INSERT INTO main.a VALUES (2)")
                with two.transaction("quicker") as other:
                    other.change("INSERT INTO main.b VALUES (1)")

        with pytest.raises(LakeConflict):
            overtaken()
        assert one.query("SELECT k FROM main.a") == [(1,)]
        assert newest(one) == seen + 2
