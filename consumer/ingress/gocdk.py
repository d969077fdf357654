"""Unwrap what Go CDK's pub/sub puts around a NATS payload: a header (v2) or a gob stream (v1).

Both carry the changed path under the name `key` beside SeaweedFS's own record. No length in a payload is
trusted: each is compared with the bytes that are there before anything is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

from consumer.errors import Undecodable

KEY = "key"
_BYTES_TYPE = 5
_ENTRIES_MAX = 64  # SeaweedFS sends one
_GOB_MESSAGES_MAX = 16  # three are needed; more type definitions than this are not Go CDK's


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """The path that changed and the record of the change."""

    path: str
    body: bytes


def unwrap_v2(payload: bytes, headers: Mapping[str, str]) -> Envelope:
    """Read the form of `?natsv2`: the path in a header, form-encoded, and the payload as it is.

    Raises:
        Undecodable: the header is not encoded text.
    """
    try:
        return Envelope(path=unquote_plus(headers[KEY], errors="strict"), body=payload)
    except UnicodeDecodeError:
        raise Undecodable("the header `key` is not form-encoded UTF-8") from None


def unwrap_v1(payload: bytes) -> Envelope:
    """Read Go CDK's default form: gob, a map of texts and then the body.

    The map's type id depends on the program that wrote it, so values are told apart by their order.

    Raises:
        Undecodable: it is no such stream.
    """
    stream = _Gob(payload)
    values: list[_Gob] = []
    for _ in range(_GOB_MESSAGES_MAX):
        if len(values) == 2 or stream.is_empty():
            break
        message = _Gob(stream.octets())
        type_id = message.signed()
        if type_id < 0:
            continue  # the definition of a type
        if len(values) == 1 and type_id != _BYTES_TYPE:
            raise Undecodable(f"gob: expected bytes as the second value, found type {type_id}")
        if message.unsigned() != 0:
            raise Undecodable("gob: expected a single value in a message")
        values.append(message)
    if len(values) != 2 or not stream.is_empty():
        raise Undecodable("gob: expected a map and a body, and nothing else")
    metadata = _read_map(values[0])
    body = values[1].octets()
    if not values[1].is_empty():
        raise Undecodable("gob: bytes are left over after the body")
    path = metadata.get(KEY.encode())
    if path is None:
        raise Undecodable("gob: the map has no `key`")
    try:
        return Envelope(path=path.decode(), body=body)
    except UnicodeDecodeError:
        raise Undecodable("gob: `key` is not UTF-8") from None


def _read_map(value: "_Gob") -> dict[bytes, bytes]:
    count = value.unsigned()
    if count > _ENTRIES_MAX:
        raise Undecodable(f"gob: a map of {count:,} entries, expected at most {_ENTRIES_MAX}")
    entries: dict[bytes, bytes] = {}
    for _ in range(count):
        name = value.octets()
        entries[name] = value.octets()
    if not value.is_empty():
        raise Undecodable("gob: bytes are left over after the map")
    return entries


class _Gob:
    """Bytes that are read from the front; every read checks what is left."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def is_empty(self) -> bool:
        return self._at == len(self._payload)

    def _take(self, count: int) -> bytes:
        if count > len(self._payload) - self._at:
            raise Undecodable(f"gob: ends before the {count:,} bytes it announces")
        self._at += count
        return self._payload[self._at - count : self._at]

    def unsigned(self) -> int:
        first = self._take(1)[0]
        if first < 0x80:
            return first
        count = 256 - first
        if count > 8:
            raise Undecodable(f"gob: a number of {count} bytes, expected at most 8")
        return int.from_bytes(self._take(count), "big")

    def signed(self) -> int:
        value = self.unsigned()
        return ~(value >> 1) if value & 1 else value >> 1

    def octets(self) -> bytes:
        return self._take(self.unsigned())
