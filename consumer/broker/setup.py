"""The js_streams, KV buckets and subscriptions that we need on the server: made, compared, brought up to date."""

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from typing import cast

from nats.js import JetStreamContext, api
from nats.js import errors as js_errors

from consumer.broker.config import (
    BUCKETS,
    BrokerConfig,
    Bucket,
    JsStream,
    bucket_name,
    events_stream,
    js_streams,
    keys_stream,
)
from consumer.errors import BrokerMisconfigured
from consumer.subjects import Lane, stream_filter, subscription_name
from feeders.streams import StreamId

EVENTS = "events"
"""The subscription to raw notifications."""
_NAME_IN_USE = 10058
_NO_LIMIT = -1


async def ensure(js: JetStreamContext, config: BrokerConfig) -> bool:
    """Create the js_streams and KV buckets that are missing, and bring their limits up to the settings.

    Returns:
        Whether the queue of key events had to be created: whatever waited in an earlier one is lost.
    """
    queue = keys_stream(config).name
    made = [spec.name for spec in js_streams(config) if await _ensure_js_stream(js, config, spec)]
    for bucket in BUCKETS:
        await _ensure_bucket(js, config, bucket)
    return queue in made


async def subscribe(
    js: JetStreamContext, config: BrokerConfig, stream_ids: Iterable[StreamId]
) -> frozenset[str]:
    """Make one durable subscription for each stream, one each for keys of no stream, replays and notifications.

    Returns:
        The names of those for keys.
    """
    wanted = {subscription_name(of): of for of in (*stream_ids, None, *Lane)}
    name = keys_stream(config).name
    for durable, of in wanted.items():
        await js.add_consumer(name, _subscription(config, durable, stream_filter(config.namespace, of)))
    events = events_stream(config)
    await js.add_consumer(events.name, _subscription(config, EVENTS, *events.subjects))
    return frozenset(wanted)


def _subscription(config: BrokerConfig, durable: str, subjects: str) -> api.ConsumerConfig:
    return api.ConsumerConfig(
        durable_name=durable,
        filter_subject=subjects,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=config.ack_wait_s,
        max_deliver=_NO_LIMIT,  # attempts are ours (design D10)
        # The slots are the bound. At one of the server's a request stays open, and claims keys when nobody asks any
        # more; keys that were given back for a while count as claimed.
        max_ack_pending=_NO_LIMIT,
    )


async def _ensure_js_stream(js: JetStreamContext, config: BrokerConfig, spec: JsStream) -> bool:
    """Return whether it had to be created by us."""
    try:
        found = (await js.stream_info(spec.name)).config
    except js_errors.NotFoundError:
        try:
            await js.add_stream(_as_config(spec, replicas=config.replicas))
        except js_errors.BadRequestError as error:
            if error.err_code != _NAME_IN_USE:
                raise
        else:
            return True
        found = (await js.stream_info(spec.name)).config  # another instance was faster
    _compare(spec, found)
    wanted = (spec.max_bytes, spec.max_age_s, _republish(spec))
    if (found.max_bytes, found.max_age or None, found.republish) != wanted:
        changed = replace(
            found, max_bytes=spec.max_bytes, max_age=spec.max_age_s or 0, republish=_republish(spec)
        )
        await js.update_stream(changed)
    return False


async def _ensure_bucket(js: JetStreamContext, config: BrokerConfig, bucket: Bucket) -> None:
    name = bucket_name(config, bucket)
    wanted = config.bucket_max_bytes
    try:
        found = (await js.stream_info(f"KV_{name}")).config
    except js_errors.NotFoundError:
        wanted_bucket = api.KeyValueConfig(
            bucket=name, max_bytes=wanted, storage=api.StorageType.FILE, replicas=config.replicas
        )
        await js.create_key_value(wanted_bucket)
    else:
        if found.max_bytes != wanted:
            await js.update_stream(replace(found, max_bytes=wanted))


def _as_config(spec: JsStream, *, replicas: int) -> api.StreamConfig:
    return api.StreamConfig(
        name=spec.name,
        subjects=list(spec.subjects),
        retention=api.RetentionPolicy(spec.retention),
        storage=api.StorageType.FILE,
        discard=api.DiscardPolicy(spec.discard),
        discard_new_per_subject=spec.discard_new_per_subject,
        max_msgs_per_subject=spec.max_msgs_per_subject,
        max_bytes=spec.max_bytes,
        max_age=spec.max_age_s,
        num_replicas=replicas,
        republish=_republish(spec),
    )


def _republish(spec: JsStream) -> api.RePublish | None:
    return api.RePublish(src=spec.subjects[0], dest=spec.hints, headers_only=True) if spec.hints else None


def _compare(spec: JsStream, found: api.StreamConfig) -> None:
    """Refuse a js_stream of our name that works in another way than ours."""
    wanted = _as_config(spec, replicas=1)
    for name in (
        "subjects",
        "retention",
        "storage",
        "discard",
        "discard_new_per_subject",
        "max_msgs_per_subject",
    ):
        expected, there = (_plain(getattr(config, name)) for config in (wanted, found))
        if expected != there:
            raise BrokerMisconfigured(
                f"js_stream {spec.name}: {name} is {there}, expected {expected}",
                hint=f"remove it (`nats stream rm {spec.name}`; a sweep finds its keys again), "
                "or set another LOTUS_NAMESPACE",
            )


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(sorted(str(item) for item in cast("list[object]", value)))
    return str(value.value if isinstance(value, Enum) else value)
