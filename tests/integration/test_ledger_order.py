"""The ledger's files are in the order of their keys and in small row groups, so that a look-up reads little of them."""

from itertools import pairwise

from consumer.embedded.identity import Tenant
from feeders.apply import GROUP_ROWS, LEDGER_GROUP_ROWS
from feeders.lake import Lake
from feeders.ledger import latest_states
from feeders.maintenance import Policy, maintain_now
from tests.ledgers import BUCKET, etag_of, fill, key_of
from tests.probes import lake_of, start

SMALL_ROWS = 2000
SMALL_FILES = 12
ROWS = SMALL_ROWS * SMALL_FILES


def row_groups(lake: Lake) -> list[list[tuple[str, str, int]]]:
    """Least key, greatest key and rows of each row group, file by file."""
    files = lake.query(
        "SELECT data_file FROM ducklake_list_files('lakehouse', 'feeder_files', schema => 'meta')"
    )
    return [
        lake.query(
            "SELECT stats_min_value, stats_max_value, row_group_num_rows FROM parquet_metadata(?)"
            " WHERE path_in_schema = 'key' ORDER BY row_group_id",
            (file,),
        )
        for (file,) in files
    ]


def is_in_order(groups: list[tuple[str, str, int]]) -> bool:
    return all(before[1] < after[0] for before, after in pairwise(groups))


def test_new_files_and_merged_ones_have_their_keys_in_order(tenant: Tenant) -> None:
    with lake_of(tenant, "w-test") as lake:
        start(lake, instance="w-test")
        fill(lake, ROWS, rows_a_file=SMALL_ROWS)
        assert [sum(rows for _, _, rows in groups) for groups in row_groups(lake)] == [
            SMALL_ROWS
        ] * SMALL_FILES

        maintain_now(lake, Policy(files_a_merge=SMALL_FILES))

        [groups] = row_groups(lake)
        assert len(groups) >= ROWS // LEDGER_GROUP_ROWS > 1
        assert is_in_order(groups)
        assert sum(rows for _, _, rows in groups) == ROWS
        for number in (0, 1, ROWS // 2, ROWS - 1):
            [state] = latest_states(lake, [(BUCKET, key_of(number))]).values()
            assert state.etag == etag_of(number)
        assert latest_states(lake, [(BUCKET, key_of(ROWS))]) == {}


def test_a_lake_from_before_gets_it_once(tenant: Tenant) -> None:
    with lake_of(tenant, "w-test") as lake:
        start(lake, instance="w-test")
        lake.query("ALTER TABLE meta.feeder_files RESET SORTED BY")
        with lake.config.catalog.connect(application="test") as connection:
            connection.execute("DELETE FROM ducklake_metadata WHERE key = 'parquet_row_group_size'")
    with lake_of(tenant, "w-test") as lake:
        fill(lake, ROWS)
        assert [len(groups) for groups in row_groups(lake)] == [1]

        start(lake, instance="w-test")
        fill(lake, ROWS)
        old, new = sorted(row_groups(lake), key=len)
        assert len(old) == 1, "files that are there stay as they are"
        assert len(new) >= ROWS // LEDGER_GROUP_ROWS
        assert is_in_order(new)

        before = schema_version(lake), options(lake)
        start(lake, instance="w-test")
        assert (schema_version(lake), options(lake)) == before, (
            "files of other schema versions would stay apart"
        )


def options(lake: Lake) -> list[tuple[str | None, str, int]]:
    """The options of row groups: of what, how large, and which version of its row in the catalog."""
    with lake.config.catalog.connect(application="test") as connection:
        return connection.execute(
            "SELECT scope::text, value, xmin::text::bigint FROM ducklake_metadata"
            " WHERE key = 'parquet_row_group_size' ORDER BY 1"
        ).fetchall()


def test_the_files_of_all_other_tables_have_small_row_groups(tenant: Tenant) -> None:
    """A writer holds one of each of its threads in memory."""
    table, rows = "feeder_failures", 3 * GROUP_ROWS
    with lake_of(tenant, "w-test") as lake:
        start(lake, instance="w-test")
        with lake.transaction("many rows") as transaction:
            transaction.change(f"INSERT INTO meta.{table} (key) SELECT n FROM range(?) r(n)", (rows,))
        files = lake.query(
            f"SELECT data_file FROM ducklake_list_files('lakehouse', '{table}', schema => 'meta')"
        )
        groups = [
            count
            for (file,) in files
            for (count,) in lake.query(
                "SELECT row_group_num_rows FROM parquet_metadata(?) WHERE path_in_schema = 'key'", (file,)
            )
        ]
        assert sum(groups) == rows
        assert max(groups) <= GROUP_ROWS


def schema_version(lake: Lake) -> int:
    return int(lake.query("SELECT max(schema_version) FROM ducklake_snapshots('lakehouse')")[0][0])
