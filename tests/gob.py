"""Messages as Go CDK's encoder writes them (`nats://…` without `?natsv2`), made from a captured one."""

from pathlib import Path

_CAPTURED = Path(__file__).with_name("data") / "notifications" / "gocdk_v1_real_put_small.bin"
_BYTES_TYPE = 5


def gocdk_v1(path: str, body: bytes) -> bytes:
    """A notification of a path: the captured definition of the map's type, the map with its key, and the body."""
    captured = _CAPTURED.read_bytes()
    definition, rest = _first(captured)
    map_value, _ = _first(rest)
    type_id = map_value[len(map_value) - len(_content(map_value)) :][:2]  # two bytes: an id of 64 or more
    fields = _uint(1) + _text(b"key") + _text(path.encode())
    return (
        definition
        + _message(type_id + b"\0" + fields)
        + _message(_uint(2 * _BYTES_TYPE) + b"\0" + _text(body))
    )


def _first(stream: bytes) -> tuple[bytes, bytes]:
    """The first message with its length, and what follows."""
    length, start = _read_uint(stream)
    return stream[: start + length], stream[start + length :]


def _content(message: bytes) -> bytes:
    return message[_read_uint(message)[1] :]


def _read_uint(stream: bytes) -> tuple[int, int]:
    """The number at the beginning, and how many bytes it took."""
    if stream[0] < 0x80:
        return stream[0], 1
    size = 256 - stream[0]
    return int.from_bytes(stream[1 : 1 + size], "big"), 1 + size


def _uint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes((256 - len(octets),)) + octets


def _text(value: bytes) -> bytes:
    return _uint(len(value)) + value


def _message(content: bytes) -> bytes:
    return _text(content)
