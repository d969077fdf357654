"""Settings: read once from the environment, checked against each other, secrets hidden. The only os.environ."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Self, TypeVar

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from consumer.errors import SettingsError
from consumer.limits import memory
from feeders.catalog import Catalog
from feeders.lake import LakeConfig, ObjectStore
from feeders.maintenance import Policy
from feeders.parquet import Limits
from feeders.writer import BatchLimits

MIB = 1024**2


def _either(*names: str) -> AliasChoices:
    return AliasChoices(*names)


def _no_slashes(value: object) -> object:
    return value.strip("/") if isinstance(value, str) else value


def _closed(value: object) -> object:
    """DuckLake puts names right behind its data path."""
    return value.rstrip("/") + "/" if isinstance(value, str) else value


def _no_pattern(value: object) -> object:
    """read_parquet takes the spool's paths as patterns."""
    if any(character in str(value) for character in "*?["):
        raise ValueError(f"{value} has one of the characters * ? [, which DuckDB reads as a pattern")
    return value


def duckdb_memory() -> int:
    """DuckDB's share of what this process may use, in bytes: the other half is for Python and what is being read."""
    found = memory()
    if found is None or not found.is_of_cgroup:
        return 256 * MIB
    return max(128 * MIB, min(256 * MIB, found.bytes // 2))


S = TypeVar("S", bound="ProjectSettings")


class ProjectSettings(BaseSettings):
    """What the project's SQL files are read with: no server is needed for that."""

    model_config = SettingsConfigDict(env_prefix="LOTUS_", frozen=True, extra="ignore", populate_by_name=True)

    project_dir: Path | None = Field(None, description="Folder with your own ddl/ and transforms/.")
    landing_prefix: Annotated[str, BeforeValidator(_no_slashes)] = Field(
        "raw", description="Prefix of all streams in the landing bucket."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Takes values from `load_settings` only, which says where they come from."""
        return (init_settings,)


class Settings(ProjectSettings):
    """All settings of the service. The unit of a number stands in its name."""

    namespace: str = Field(
        "lake",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$",
        description="Prefix of all names in NATS, so that two environments can share a server.",
    )

    nats_url: str = Field(
        "nats://127.0.0.1:4222", description="The NATS server or servers, separated by commas."
    )
    nats_user: str | None = Field(None, description="User of the NATS server.")
    nats_password: SecretStr | None = Field(None, description="Password of the NATS server.")

    s3_endpoint: str = Field(
        validation_alias=_either("LOTUS_S3_ENDPOINT", "S3_ENDPOINT"),
        description="URL of the S3 endpoint of SeaweedFS.",
    )
    s3_access_key_id: str = Field(
        validation_alias=_either("LOTUS_S3_ACCESS_KEY_ID", "S3_ACCESS_KEY_ID"),
        description="The loader's key: reads the landing bucket, reads and writes the lake's, deletes nowhere.",
    )
    s3_secret_access_key: SecretStr = Field(
        validation_alias=_either("LOTUS_S3_SECRET_ACCESS_KEY", "S3_SECRET_ACCESS_KEY"),
        description="The loader's secret.",
    )
    s3_region: str = Field("us-east-1", description="Region that S3 requests are signed for.")
    loader_may_delete: bool = Field(
        False,
        description="Accept a loader that may delete lake objects: a lost answer to a COMMIT can then lose files.",
    )
    janitor_s3_access_key_id: str | None = Field(
        None, description="The janitor's key: the only identity that deletes lake objects."
    )
    janitor_s3_secret_access_key: SecretStr | None = Field(None, description="The janitor's secret.")

    landing_bucket: str = Field("landing", description="Bucket that Airbyte writes to.")
    lake_path: Annotated[str, BeforeValidator(_closed)] = Field(
        "s3://lake/data/", pattern=r"^s3://[^/]+/.*", description="Where DuckLake keeps its data files."
    )

    catalog_host: str = Field(
        validation_alias=_either("LOTUS_CATALOG_HOST", "DUCKLAKE_DB_HOST"),
        description="Host of the PostgreSQL catalog.",
    )
    catalog_port: int = Field(
        5432,
        ge=1,
        le=65535,
        validation_alias=_either("LOTUS_CATALOG_PORT", "DUCKLAKE_DB_PORT"),
        description="Port of the PostgreSQL catalog.",
    )
    catalog_database: str = Field(
        "ducklake",
        validation_alias=_either("LOTUS_CATALOG_DATABASE", "DUCKLAKE_DB_NAME"),
        description="Database of the catalog.",
    )
    catalog_user: str = Field(
        "ducklake",
        validation_alias=_either("LOTUS_CATALOG_USER", "DUCKLAKE_DB_USER"),
        description="Role that owns the catalog.",
    )
    catalog_password: SecretStr = Field(
        validation_alias=_either("LOTUS_CATALOG_PASSWORD", "DUCKLAKE_DB_PASSWORD"),
        description="Password of that role.",
    )
    catalog_schema: str = Field("public", description="Schema of the catalog's tables.")
    lock_timeout_s: float = Field(
        6.0, ge=2, le=60, description="A writer that is stopped this long loses the lock."
    )

    filer_grpc: str | None = Field(
        None,
        description="host:port of the filer's gRPC, which is tailed for events; unset turns the tail off.",
    )
    notifications: bool = Field(
        True,
        description="Take in what is published on {namespace}.events.>: SeaweedFS's own notifications, S3 events.",
    )
    filer_tls_ca: Path | None = Field(
        None, description="CA certificate of the filer's gRPC, if it uses mutual TLS."
    )
    filer_tls_cert: Path | None = Field(None, description="Client certificate for the filer's gRPC.")
    filer_tls_key: Path | None = Field(None, description="Private key of that certificate.")
    sweep_at_start: bool = Field(
        True, description="List the landing prefix at start and publish what the ledger lacks."
    )
    sweep_interval_s: float = Field(
        3600.0,
        ge=0,
        description="The landing prefix is listed again this long after the last time; 0: only after a gap.",
    )
    sweep_max_pending: int = Field(
        10_000, ge=1, description="A sweep keeps at most this many keys of a stream in the queue."
    )
    sweep_max_removed_percent: int = Field(
        10,
        ge=0,
        le=100,
        description="With on_delete: remove, more of a stream's keys gone at once wait for"
        " `lotus-lake sweep --confirm`.",
    )

    replay_max_keys: int = Field(
        100_000, ge=1, le=1_000_000, description="Keys that one request for a replay may be about."
    )

    http_host: str = Field(
        "127.0.0.1", description="Address of /metrics, /livez, /readyz and the status page."
    )
    http_port: int = Field(
        8080,
        ge=0,
        le=65535,
        description="Port of /metrics, /livez, /readyz and the status page; 0 takes a free one.",
    )

    spool_dir: Annotated[Path, BeforeValidator(_no_pattern)] = Field(
        default_factory=lambda: Path(gettempdir()) / "lotus-lake-spool",
        description="Folder for objects that are being loaded.",
    )
    spool_max_bytes: int = Field(
        1024 * MIB, ge=16 * MIB, description="Room for objects that are being loaded."
    )

    worker_slots: int = Field(
        200, ge=1, le=2000, description="Keys in work at once, waiting for the writer included."
    )
    worker_reads: int = Field(16, ge=1, le=256, description="Objects read and checked at once.")
    breaker_keys: int = Field(
        20,
        ge=1,
        le=10_000,
        description="Dead letters of a stream in a row, for one reason, after which its keys stay in the queue.",
    )
    breaker_probe_s: float = Field(
        60.0, ge=0.1, le=3600, description="How often one key of such a stream is tried."
    )
    ack_wait_s: float = Field(
        30.0,
        ge=4,
        le=3600,
        description="A key that is not renewed this long is given to another worker; renewed at a quarter of it.",
    )
    drain_timeout_s: float = Field(
        25.0, ge=1, description="After SIGTERM, how long keys in work may take to finish."
    )

    commit_max_files: int = Field(200, ge=1, le=5000, description="Files that one transaction takes at most.")
    commit_max_rows: int = Field(1_000_000, ge=1, description="Rows that one transaction takes at most.")
    commit_max_bytes: int = Field(
        256 * MIB, ge=MIB, description="Bytes of files that one transaction takes at most."
    )
    commit_min_interval_ms: int = Field(
        0,
        ge=0,
        le=60_000,
        description="Least time between two commits; saves objects and catalog rows in a trickle.",
    )
    transform_max_delay_ms: int = Field(
        1000,
        ge=0,
        description="Under load the models are brought up to date this often; at once when no key waits.",
    )
    transform_rebuild_share: float = Field(
        0.3,
        ge=0,
        le=1,
        description="A model of which a larger share of rows (and more than 1,000) is affected is rebuilt as a whole.",
    )
    transform_rebuild_rows: int = Field(
        20_000,
        ge=0,
        description="Until so many rows were loaded, changed models are rebuilt as a whole: that is quicker.",
    )
    transform_verify_interval_s: float = Field(
        300.0,
        ge=0,
        description="How often a sample of each model is held against its SELECT, in idle moments; 0 is never.",
    )
    transform_verify_keys: int = Field(
        100,
        ge=1,
        le=100_000,
        description="So many keys of a model, and rows of each of its inputs, are a sample.",
    )
    maintenance: bool = Field(True, description="Merge small files, expire old snapshots, and clean up.")
    lake_file_bytes: int = Field(
        32 * MIB,
        ge=MIB,
        le=512 * MIB,
        description="Size of file that small ones are merged towards; a merge of it is the longest that a key waits"
        " for maintenance.",
    )
    snapshot_retention_days: float = Field(
        7.0,
        ge=0,
        le=3650,
        description="How far back time travel goes: every snapshot for 10 minutes, then the last one of each hour.",
    )
    cleanup_after_hours: float = Field(
        24.0,
        ge=1,
        description="How long the files of expired snapshots stay in the bucket; a dump of the catalog must not be"
        " older when it is restored.",
    )
    duckdb_memory_bytes: int = Field(
        default_factory=duckdb_memory,
        ge=128 * MIB,
        description="Memory that DuckDB may use; what does not fit goes to the spool's folder. By default half of the"
        " container's limit if that is less than 512 MiB.",
    )
    duckdb_temp_bytes: int = Field(
        8192 * MIB,
        ge=64 * MIB,
        description="Room in the spool's folder for what does not fit DuckDB's memory; a file that needs more is a"
        " dead letter.",
    )
    duckdb_threads: int = Field(2, ge=1, le=256, description="Threads that DuckDB may use.")

    file_max_bytes: int = Field(2048 * MIB, ge=1, description="A larger object is a dead letter.")
    file_max_rows: int = Field(50_000_000, ge=1, description="An object with more rows is a dead letter.")
    file_max_columns: int = Field(2_000, ge=1, description="An object with more columns is a dead letter.")
    file_max_depth: int = Field(32, ge=1, description="An object with deeper nesting is a dead letter.")
    file_max_unpacked_bytes: int = Field(
        8192 * MIB,
        ge=1,
        description="An object whose values take more, with dictionaries resolved, is a dead letter.",
    )
    file_max_row_group_bytes: int = Field(
        4096 * MIB, ge=1, description="An object with a row group that unpacks to more is a dead letter."
    )
    file_max_held_bytes: int = Field(
        128 * MIB,
        ge=1,
        description="An object of which a reader must hold more at once (a page, the lists of one row, the"
        " texts of 2,048 rows that a dictionary makes long) is a dead letter.",
    )
    file_max_row_groups: int = Field(
        20_000, ge=1, description="An object with more row groups is a dead letter."
    )
    file_max_footer_bytes: int = Field(
        16 * MIB, ge=1, description="An object with a larger footer is a dead letter."
    )

    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="Least level of log lines."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        lake_bucket, _, lake_prefix = self.lake_path.removeprefix("s3://").partition("/")
        if lake_bucket == self.landing_bucket:
            # With a slash before and after, one prefix holds another one exactly if the other begins with it.
            lake, landing = (
                f"/{prefix}/" if prefix else "/" for prefix in (lake_prefix.strip("/"), self.landing_prefix)
            )
            if lake.startswith(landing) or landing.startswith(lake):
                raise ValueError(
                    f"LOTUS_LAKE_PATH {self.lake_path} and the landing prefix"
                    f" s3://{self.landing_bucket}/{self.landing_prefix} overlap: give the lake a bucket of its own"
                )
        if self.worker_slots < self.worker_reads:
            raise ValueError(
                "LOTUS_WORKER_READS is greater than LOTUS_WORKER_SLOTS: keys that are read need a slot"
            )
        if (self.janitor_s3_access_key_id is None) != (self.janitor_s3_secret_access_key is None):
            raise ValueError(
                "the janitor needs both LOTUS_JANITOR_S3_ACCESS_KEY_ID and its secret, or neither"
            )
        return self

    @property
    def catalog(self) -> Catalog:
        """The catalog to connect to."""
        return Catalog(
            host=self.catalog_host,
            port=self.catalog_port,
            database=self.catalog_database,
            user=self.catalog_user,
            password=self.catalog_password.get_secret_value(),
            schema=self.catalog_schema,
        )

    def lake(self, instance: str) -> LakeConfig:
        """How this process opens the lake as the loader."""
        return LakeConfig(
            catalog=self.catalog,
            store=ObjectStore(
                endpoint=self.s3_endpoint,
                access_key_id=self.s3_access_key_id,
                secret_access_key=self.s3_secret_access_key.get_secret_value(),
                region=self.s3_region,
            ),
            data_path=self.lake_path,
            instance=instance,
            memory_limit_bytes=self.duckdb_memory_bytes,
            threads=self.duckdb_threads,
            # Named like a slot of the spool, which wipes what a kill -9 left.
            temp_max_bytes=self.duckdb_temp_bytes,
            temp_directory=self.spool_dir / f"lotus-slot-duckdb-{instance}",
        )

    @property
    def janitor_store(self) -> ObjectStore | None:
        """The store as the janitor reaches it; None if it has no identity."""
        if self.janitor_s3_access_key_id is None or self.janitor_s3_secret_access_key is None:
            return None
        return ObjectStore(
            endpoint=self.s3_endpoint,
            access_key_id=self.janitor_s3_access_key_id,
            secret_access_key=self.janitor_s3_secret_access_key.get_secret_value(),
            region=self.s3_region,
        )

    @property
    def maintenance_policy(self) -> Policy:
        """When which maintenance is due."""
        return Policy(target_bytes=self.lake_file_bytes, retention_s=self.snapshot_retention_days * 86400)

    @property
    def batch_limits(self) -> BatchLimits:
        """The limits of one transaction."""
        return BatchLimits(
            files=self.commit_max_files,
            rows=self.commit_max_rows,
            bytes=self.commit_max_bytes,
            min_interval_s=self.commit_min_interval_ms / 1000,
        )

    @property
    def file_limits(self) -> Limits:
        """The limits of one object."""
        return Limits(
            max_bytes=self.file_max_bytes,
            max_rows=self.file_max_rows,
            max_columns=self.file_max_columns,
            max_depth=self.file_max_depth,
            max_unpacked_bytes=self.file_max_unpacked_bytes,
            max_row_group_bytes=self.file_max_row_group_bytes,
            max_held_bytes=self.file_max_held_bytes,
            max_row_groups=self.file_max_row_groups,
            max_footer_bytes=self.file_max_footer_bytes,
        )


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Reads the settings from the environment, or from `environment` instead.

    Raises:
        SettingsError: a setting is missing, unknown or wrong; says which and never prints a secret.
    """
    return _load(Settings, os.environ if environment is None else environment)


def load_project_settings() -> ProjectSettings:
    """Reads from the environment what the project's SQL files are read with.

    Raises:
        SettingsError: as `load_settings`, but for settings that are missing.
    """
    return _load(ProjectSettings, os.environ)


def _load(kind: type[S], values: Mapping[str, str]) -> S:
    refuse_unknown(values)
    source = EnvSettingsSource(kind)
    source.env_vars = {name.lower(): value for name, value in values.items() if value}
    try:
        return kind(**source())
    except ValidationError as error:
        lines = [
            f"{variable_of(str(e['loc'][0])) if e['loc'] else 'settings'}: {e['msg']}" for e in error.errors()
        ]
        raise SettingsError(
            "; ".join(lines),
            hint="set them in the environment; see docs/configuration.md. Those of a `lotus-lake up --dir DIR`"
            " are in DIR/consumer.env: set -a; . DIR/consumer.env; set +a",
        ) from None


def variables_by_field() -> dict[str, tuple[str, ...]]:
    """The environment variables of each setting, the preferred one first."""
    names: dict[str, tuple[str, ...]] = {}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        choices = tuple(str(choice) for choice in alias.choices) if isinstance(alias, AliasChoices) else ()
        names[name] = choices or (f"LOTUS_{name.upper()}",)
    return names


def variable_of(place: str) -> str:
    """The preferred environment variable of a setting, given its field's name or any of its variables."""
    for field, variables in variables_by_field().items():
        if place == field or place in variables:
            return variables[0]
    return place


def known_variables() -> frozenset[str]:
    """Every environment variable that is a setting."""
    return frozenset(variable for variables in variables_by_field().values() for variable in variables)


def given_settings() -> dict[str, str]:
    """The variables of this process's environment that begin with `LOTUS_`.

    Raises:
        SettingsError: one of them is no setting.
    """
    given = {name: value for name, value in os.environ.items() if name.startswith("LOTUS_")}
    refuse_unknown(given)
    return given


def refuse_unknown(names: Iterable[str]) -> None:
    """Refuses variables that look like settings and are none.

    Raises:
        SettingsError: names them.
    """
    unknown = sorted(name for name in names if name.startswith("LOTUS_") and name not in known_variables())
    if unknown:
        raise SettingsError(
            f"unknown settings {', '.join(unknown)}",
            hint="docs/configuration.md has the names of all settings",
        )


def inherited_environment() -> dict[str, str]:
    """This process's environment without any setting of ours, for a child that gets its own."""
    return {name: value for name, value in os.environ.items() if name not in known_variables()}
