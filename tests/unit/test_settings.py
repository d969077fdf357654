"""Settings: defaults, names that existing deployments have, what does not fit together, and no secret shown."""

import traceback
from dataclasses import fields
from pathlib import Path

import pytest

from consumer.errors import SettingsError
from consumer.settings import known_variables, load_settings, variables_by_field
from feeders.parquet import Limits

SECRETS = {
    "LOTUS_S3_SECRET_ACCESS_KEY": "secret-of-s3",
    "LOTUS_CATALOG_PASSWORD": "secret-of-postgresql",
    "LOTUS_NATS_PASSWORD": "secret-of-nats",
    "LOTUS_JANITOR_S3_SECRET_ACCESS_KEY": "secret-of-janitor",
}
LEAST = {
    "LOTUS_S3_ENDPOINT": "http://127.0.0.1:8333",
    "LOTUS_S3_ACCESS_KEY_ID": "loader",
    "LOTUS_S3_SECRET_ACCESS_KEY": SECRETS["LOTUS_S3_SECRET_ACCESS_KEY"],
    "LOTUS_CATALOG_HOST": "127.0.0.1",
    "LOTUS_CATALOG_PASSWORD": SECRETS["LOTUS_CATALOG_PASSWORD"],
}
ALIASES = {
    "S3_ENDPOINT": "LOTUS_S3_ENDPOINT",
    "S3_ACCESS_KEY_ID": "LOTUS_S3_ACCESS_KEY_ID",
    "S3_SECRET_ACCESS_KEY": "LOTUS_S3_SECRET_ACCESS_KEY",
    "DUCKLAKE_DB_HOST": "LOTUS_CATALOG_HOST",
    "DUCKLAKE_DB_PASSWORD": "LOTUS_CATALOG_PASSWORD",
}


def refusal(**changes: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load_settings(LEAST | changes)
    return caught.value


def test_five_settings_are_enough_and_the_rest_has_defaults() -> None:
    settings = load_settings(LEAST)
    assert settings.namespace == "lake"
    assert settings.nats_url == "nats://127.0.0.1:4222"
    assert settings.nats_user is None
    assert (settings.landing_bucket, settings.landing_prefix) == ("landing", "raw")
    assert settings.lake_path == "s3://lake/data/"
    assert settings.s3_region == "us-east-1"
    assert (settings.catalog_port, settings.catalog_database, settings.catalog_user) == (
        5432,
        "ducklake",
        "ducklake",
    )
    assert settings.catalog_schema == "public"
    assert settings.filer_grpc is None
    assert settings.project_dir is None
    assert settings.loader_may_delete is False
    assert settings.http_host == "127.0.0.1"


@pytest.mark.parametrize("missing", sorted(LEAST))
def test_a_missing_setting_is_named(missing: str) -> None:
    with pytest.raises(SettingsError, match=missing):
        load_settings({name: value for name, value in LEAST.items() if name != missing})


def test_the_names_of_existing_deployments_are_understood() -> None:
    old = {alias: LEAST[name] for alias, name in ALIASES.items()}
    ours, theirs = load_settings(LEAST), load_settings(old)
    assert theirs == ours
    assert theirs.catalog.password == SECRETS["LOTUS_CATALOG_PASSWORD"]
    more = load_settings(
        old | {"DUCKLAKE_DB_PORT": "5433", "DUCKLAKE_DB_NAME": "lakes", "DUCKLAKE_DB_USER": "someone"}
    )
    assert (more.catalog_port, more.catalog_database, more.catalog_user) == (5433, "lakes", "someone")


@pytest.mark.parametrize(("alias", "name"), sorted(ALIASES.items()))
def test_our_own_name_wins_over_an_old_one(alias: str, name: str) -> None:
    assert load_settings(LEAST | {alias: "http://127.0.0.1:1"}) == load_settings(LEAST)
    assert load_settings(LEAST | {name: "http://127.0.0.1:1"}) != load_settings(LEAST)


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert load_settings(LEAST | {"LOTUS_FILER_GRPC": "", "LOTUS_NAMESPACE": ""}) == load_settings(LEAST)


def test_the_environment_is_the_default_source(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in known_variables():
        monkeypatch.delenv(name, raising=False)
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOTUS_NAMESPACE", "mine")
    assert load_settings().namespace == "mine"


def test_an_unknown_variable_of_ours_is_refused_and_others_are_not_ours() -> None:
    error = refusal(LOTUS_NAMESPCAE="typo")
    assert "LOTUS_NAMESPCAE" in str(error)
    assert "typo" not in str(error)
    assert error.hint
    load_settings(LEAST | {"AWS_SECRET_ACCESS_KEY": "x", "LOTUSLAKE": "x", "PGPASSWORD": "x"})


@pytest.mark.parametrize(
    ("bucket", "prefix", "lake", "overlap"),
    [
        ("landing", "raw", "s3://lake/data/", False),
        ("landing", "raw", "s3://landing/data/", False),
        ("landing", "raw", "s3://landing/rawdata/", False),
        ("landing", "rawdata", "s3://landing/raw/", False),
        ("landing", "raw", "s3://landing/raw/", True),
        ("landing", "raw", "s3://landing/raw", True),
        ("landing", "raw", "s3://landing/raw/lake/", True),
        ("landing", "raw/airbyte", "s3://landing/raw/", True),
        ("landing", "/raw/", "s3://landing/raw/", True),
        ("landing", "raw", "s3://landing/", True),
        ("landing", "/", "s3://landing/data/", True),
    ],
)
def test_the_lake_may_not_lie_in_the_landing_place_nor_around_it(
    bucket: str, prefix: str, lake: str, *, overlap: bool
) -> None:
    values = LEAST | {"LOTUS_LANDING_BUCKET": bucket, "LOTUS_LANDING_PREFIX": prefix, "LOTUS_LAKE_PATH": lake}
    if overlap:
        with pytest.raises(SettingsError, match="overlap"):
            load_settings(values)
    else:
        load_settings(values)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"LOTUS_NAMESPACE": "two words"}, "LOTUS_NAMESPACE"),
        ({"LOTUS_NAMESPACE": "a.b"}, "LOTUS_NAMESPACE"),
        ({"LOTUS_CATALOG_PORT": "many"}, "LOTUS_CATALOG_PORT"),
        ({"DUCKLAKE_DB_PORT": "70000"}, "LOTUS_CATALOG_PORT"),
        ({"LOTUS_LAKE_PATH": "/srv/lake"}, "LOTUS_LAKE_PATH"),
        ({"LOTUS_WORKER_SLOTS": "4", "LOTUS_WORKER_READS": "8"}, "LOTUS_WORKER_READS"),
        ({"LOTUS_JANITOR_S3_ACCESS_KEY_ID": "janitor"}, "LOTUS_JANITOR_S3_ACCESS_KEY_ID"),
        ({"LOTUS_ACK_WAIT_S": "1"}, "LOTUS_ACK_WAIT_S"),
        ({"LOTUS_LOG_LEVEL": "loud"}, "LOTUS_LOG_LEVEL"),
    ],
)
def test_a_wrong_setting_is_named_with_a_hint(changes: dict[str, str], named: str) -> None:
    error = refusal(**changes)
    assert named in str(error)
    assert error.hint


def test_no_secret_is_ever_shown() -> None:
    values = (
        LEAST
        | SECRETS
        | {
            "LOTUS_NATS_USER": "lotus",
            "LOTUS_JANITOR_S3_ACCESS_KEY_ID": "janitor",
            "LOTUS_DUCKDB_TEMP_BYTES": "67108864",
            "LOTUS_SPOOL_DIR": "/spool",
        }
    )
    settings = load_settings(values)
    shown = [repr(settings), str(settings), repr(settings.catalog), repr(settings.lake("w-test"))]
    shown += [settings.model_dump_json(), repr(settings.model_dump())]
    wrong = {
        "LOTUS_LAKE_PATH": "s3://landing/raw/",  # a check over all settings, so the input is all of them
        "LOTUS_CATALOG_PORT": "many",
        "LOTUS_NO_SUCH": SECRETS["LOTUS_NATS_PASSWORD"],
    }
    for name, value in wrong.items():
        with pytest.raises(SettingsError) as caught:
            load_settings(values | {name: value})
        shown.append(str(caught.value))
        shown.append("".join(traceback.format_exception(caught.value)))
    for text in shown:
        assert not any(secret in text for secret in SECRETS.values()), text
    # They are there for those who need them.
    assert settings.lake("w-test").store.secret_access_key == SECRETS["LOTUS_S3_SECRET_ACCESS_KEY"]


def test_each_setting_has_its_variable_and_says_what_it_is() -> None:
    names = variables_by_field()
    assert all(name.startswith("LOTUS_") for name, *_ in names.values())
    assert names["catalog_host"] == ("LOTUS_CATALOG_HOST", "DUCKLAKE_DB_HOST")
    fields = type(load_settings(LEAST)).model_fields
    assert all(field.description for field in fields.values())


def test_what_modules_get_is_made_from_the_settings() -> None:
    settings = load_settings(
        LEAST
        | {
            "LOTUS_COMMIT_MAX_FILES": "7",
            "LOTUS_COMMIT_MIN_INTERVAL_MS": "250",
            "LOTUS_FILE_MAX_BYTES": "1000",
            "LOTUS_DUCKDB_TEMP_BYTES": "67108864",
            "LOTUS_SPOOL_DIR": "/spool",
            "LOTUS_CATALOG_SCHEMA": "lakes",
        }
    )
    assert settings.batch_limits.files == 7
    assert settings.batch_limits.min_interval_s == 0.25
    assert settings.file_limits.max_bytes == 1000
    lake = settings.lake("w-test")
    assert (lake.instance, lake.data_path) == ("w-test", "s3://lake/data/")
    assert lake.temp_directory is not None
    assert lake.temp_max_bytes == 64 * 1024**2
    assert lake.temp_directory.is_relative_to(Path("/spool"))
    assert lake.catalog.schema == "lakes"


def test_every_limit_of_a_file_is_a_setting() -> None:
    """A dead letter names the setting by the name of the limit."""
    for limit in fields(Limits):
        changed = load_settings(LEAST | {f"LOTUS_FILE_{limit.name.upper()}": "4711"}).file_limits
        assert getattr(changed, limit.name) == 4711
