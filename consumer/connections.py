"""How this process reaches its servers, from the settings."""

from contextlib import AbstractAsyncContextManager

from consumer.broker import BrokerConfig
from consumer.objects import Bucket, open_bucket
from consumer.settings import Settings


def broker_config(settings: Settings, instance: str) -> BrokerConfig:
    """How to reach NATS."""
    return BrokerConfig(
        url=settings.nats_url,
        user=settings.nats_user,
        password=settings.nats_password.get_secret_value() if settings.nats_password else None,
        namespace=settings.namespace,
        client_name=f"lotus-lake:{instance}",
        ack_wait_s=settings.ack_wait_s,
    )


def loader_bucket(settings: Settings, bucket: str) -> AbstractAsyncContextManager[Bucket]:
    """Opens a bucket with the loader's identity."""
    return open_bucket(
        endpoint=settings.s3_endpoint,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key.get_secret_value(),
        region=settings.s3_region,
        bucket=bucket,
        max_connections=settings.worker_reads + 4,
    )
