"""Names in NATS: subjects, js_streams, KV buckets and subscriptions of one namespace."""

import re
from enum import Enum

from consumer.events import Identity
from feeders.streams import StreamId

_IDENTITY = re.compile(r"[0-9a-f]{32}")
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_UNROUTED = ("_unrouted", "_")
_REPLAY = "_replay"
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")


class Lane(Enum):
    """Key events that wait apart from those of their streams."""

    REPLAYS = _REPLAY


Queued = StreamId | Lane | None
"""Whose key events: a stream's, those of no stream, or those that a person asked for, of whichever stream."""


def check_namespace(namespace: str) -> str:
    """Return the namespace if names can be made of it.

    Raises:
        ValueError: it holds something else than letters, digits, "-" and "_", or is longer than 32.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f'a namespace is 1 to 32 letters, digits, "-" or "_", found {namespace[:80]!r}')
    return namespace


def encode_token(text: str) -> str:
    """Write any non-empty text as one subject token, also fit for names of subscriptions and KV keys.

    Letters, digits, "-" and "_" stand for themselves; every other byte of the UTF-8, and a "_" in front (such
    tokens are reserved), becomes "=" and two hex digits.
    """
    if not text:
        raise ValueError("a subject token can't be empty")
    octets = text.encode()
    return "".join(
        chr(octet) if octet in _PLAIN or (octet == ord("_") and at > 0) else f"={octet:02X}"
        for at, octet in enumerate(octets)
    )


def decode_token(token: str) -> str:
    """Undo `encode_token`.

    Raises:
        ValueError: the token is not one that `encode_token` writes.
    """
    octets = re.sub(rb"=([0-9A-F]{2})", lambda found: bytes((int(found[1], 16),)), token.encode())
    text = octets.decode()
    if not text or encode_token(text) != token:
        raise ValueError(f"not an encoded subject token: {token[:80]!r}")
    return text


def stream_tokens(stream_id: StreamId | None) -> str:
    """Return the two subject tokens of a stream, or of what no stream matches."""
    if stream_id is None:
        return ".".join(_UNROUTED)
    return f"{encode_token(stream_id.source)}.{encode_token(stream_id.stream)}"


def key_subject(
    namespace: str, stream_id: StreamId | None, identity: Identity, *, is_replay: bool = False
) -> str:
    """Return the subject on which a key event waits; `None` is for a key that no stream matches."""
    if not _IDENTITY.fullmatch(identity):
        raise ValueError(f"not an identity: {identity[:40]!r}")
    lane = f"{_REPLAY}." if is_replay else ""
    return f"{namespace}.keys.{lane}{stream_tokens(stream_id)}.{identity}"


def parse_key_subject(namespace: str, subject: str) -> tuple[StreamId | None, Identity]:
    """Undo `key_subject`, for a replay too.

    Raises:
        ValueError: it is not such a subject.
    """
    prefix = f"{namespace}.keys."
    tokens = subject.removeprefix(prefix).split(".")
    if len(tokens) == 4 and tokens[0] == _REPLAY:
        del tokens[0]
    if not subject.startswith(prefix) or len(tokens) != 3 or not _IDENTITY.fullmatch(tokens[2]):
        raise ValueError(f"not a key subject of namespace {namespace}: {subject[:120]!r}")
    identity = Identity(tokens[2])
    if (tokens[0], tokens[1]) == _UNROUTED:
        return None, identity
    return StreamId(source=decode_token(tokens[0]), stream=decode_token(tokens[1])), identity


def stream_filter(namespace: str, of: Queued) -> str:
    """Return the subject filter of all keys of a stream, of those that no stream matches, or of a lane."""
    tokens = f"{of.value}.*.*" if isinstance(of, Lane) else stream_tokens(of)
    return f"{namespace}.keys.{tokens}.*"


def queue_filters(namespace: str, stream_id: StreamId) -> list[str]:
    """Return the subject filters of all keys of a stream, its replays too, and of keys that no stream matches."""
    replays = f"{namespace}.keys.{_REPLAY}.{stream_tokens(stream_id)}.*"
    return [stream_filter(namespace, stream_id), replays, stream_filter(namespace, None)]


def dead_subject(namespace: str, stream_id: StreamId | None) -> str:
    """Return the subject on which a dead letter of a stream is announced."""
    return f"{namespace}.dead.{stream_tokens(stream_id)}"


def commit_subject(namespace: str, stream_id: StreamId) -> str:
    """Return the subject on which a commit of a stream is announced."""
    return f"{namespace}.commits.{stream_tokens(stream_id)}"


def subscription_name(of: Queued) -> str:
    """Return the name of the durable subscription to these keys: no "." may stand in it."""
    return "keys==" + (of.value if isinstance(of, Lane) else stream_tokens(of).replace(".", "=="))


def replay_subject(namespace: str) -> str:
    """Return the subject of requests to load keys again."""
    return f"{namespace}.replay"


def replay_status_subject(namespace: str) -> str:
    """Return the subject of questions about such a request."""
    return f"{namespace}.replay.status"


def pause_subject(namespace: str) -> str:
    """Return the subject of requests to pause a stream, and of questions which ones are paused."""
    return f"{namespace}.pause"


def resume_subject(namespace: str) -> str:
    """Return the subject of requests to go on with a paused stream."""
    return f"{namespace}.resume"


def status_subject(namespace: str) -> str:
    """Return the subject of questions how everything is."""
    return f"{namespace}.status"


def letters_subject(namespace: str) -> str:
    """Return the subject of requests about dead letters; one token more are those of their feed."""
    return f"{namespace}.dead"
