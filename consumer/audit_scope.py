"""Which objects an audit is about, and what of them has to be listed and counted."""

from datetime import date

from consumer.selection import prefixes_of
from feeders.auditing import Scope
from feeders.streams import Stream, StreamTable

BEGINS_MOST = 2000
"""Rather than with so many prefixes all that lands is listed once."""


def scope_of(
    streams: StreamTable,
    *,
    bucket: str,
    landing_prefix: str,
    prefix: str | None,
    stream: Stream | None,
    days: tuple[date, date] | None,
) -> tuple[Scope, tuple[Stream, ...]]:
    """What an audit of this prefix, or this stream, or of everything is about; and whose rows it has to count."""
    if stream is not None:
        places = tuple(f"{place}/" for place in stream.landing)
        looked_at = (stream,)
    else:
        places = (prefix if prefix is not None else f"{landing_prefix}/" if landing_prefix else "",)
        looked_at = tuple(each for each in streams if may_hold(each, places[0]))
    begins = places
    if days is not None and prefix is None:
        narrow = tuple(begin for each in looked_at for begin in prefixes_of(each, *days))
        begins = narrow if len(narrow) <= BEGINS_MOST else places
    scope = Scope(
        bucket=bucket,
        prefixes=places,
        begins=begins,
        stream=stream.id if stream else None,
        days=days,
        is_whole=prefix is None and days is None,
    )
    return scope, looked_at


def may_hold(stream: Stream, prefix: str) -> bool:
    """Says whether keys of a stream may begin like this."""
    return any(f"{place}/".startswith(prefix) or prefix.startswith(f"{place}/") for place in stream.landing)
