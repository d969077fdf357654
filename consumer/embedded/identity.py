"""Who may do what: the S3 identities of a stack, and one tenant's coordinates."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class S3Identity:
    """A name and its key pair."""

    name: str
    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """Where the servers of a stack answer; all on 127.0.0.1."""

    s3_url: str
    filer_http: str
    filer_grpc: str
    nats_url: str
    postgres_host: str
    postgres_port: int


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """A PostgreSQL database and the role that owns it."""

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """One lake on the stack: its namespace, buckets, catalog and identities.

    The lander writes to and deletes from the landing bucket, as Airbyte does. The loader reads landing, and
    reads and writes the lake but cannot delete there. The janitor reads the lake and deletes from it.
    """

    name: str
    namespace: str
    landing_bucket: str
    lake_bucket: str
    lake_path: str
    catalog: Catalog
    lander: S3Identity
    loader: S3Identity
    janitor: S3Identity
    nats_user: str
    nats_password: str = field(repr=False)
    endpoints: Endpoints
    http_port: int
    spool_dir: Path

    def env(self) -> dict[str, str]:
        """Returns the settings of a consumer of this lake, as environment variables."""
        return {
            "LOTUS_NAMESPACE": self.namespace,
            "LOTUS_NATS_URL": self.endpoints.nats_url,
            "LOTUS_NATS_USER": self.nats_user,
            "LOTUS_NATS_PASSWORD": self.nats_password,
            "LOTUS_S3_ENDPOINT": self.endpoints.s3_url,
            "LOTUS_S3_ACCESS_KEY_ID": self.loader.access_key_id,
            "LOTUS_S3_SECRET_ACCESS_KEY": self.loader.secret_access_key,
            "LOTUS_S3_REGION": "us-east-1",
            "LOTUS_JANITOR_S3_ACCESS_KEY_ID": self.janitor.access_key_id,
            "LOTUS_JANITOR_S3_SECRET_ACCESS_KEY": self.janitor.secret_access_key,
            "LOTUS_LANDING_BUCKET": self.landing_bucket,
            "LOTUS_LANDING_PREFIX": "raw",
            "LOTUS_LAKE_PATH": self.lake_path,
            "LOTUS_CATALOG_HOST": self.catalog.host,
            "LOTUS_CATALOG_PORT": str(self.catalog.port),
            "LOTUS_CATALOG_DATABASE": self.catalog.database,
            "LOTUS_CATALOG_USER": self.catalog.user,
            "LOTUS_CATALOG_PASSWORD": self.catalog.password,
            "LOTUS_CATALOG_SCHEMA": "public",
            "LOTUS_FILER_GRPC": self.endpoints.filer_grpc,
            "LOTUS_HTTP_HOST": "127.0.0.1",
            "LOTUS_HTTP_PORT": str(self.http_port),
            "LOTUS_SPOOL_DIR": str(self.spool_dir),
        }
