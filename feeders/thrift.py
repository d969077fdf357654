"""A reader of Thrift's compact protocol, as much of it as a Parquet footer takes."""

MAX_DEPTH = 16
MAX_ELEMENTS = 100_000


class FooterSyntaxError(ValueError):
    """The footer's bytes are no Parquet metadata."""


class ThriftReader:
    """Thrift's compact protocol over one buffer. Every step forward is held against its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        """Return the next byte."""
        if self.at >= len(self.data):
            message = f"it ends after {len(self.data)} bytes, in the middle of a value"
            raise FooterSyntaxError(message)
        value = self.data[self.at]
        self.at += 1
        return value

    def unsigned(self) -> int:
        """Return a variable-length integer."""
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7
            if shift > 63:
                message = f"an integer of more than 64 bits at byte {self.at}"
                raise FooterSyntaxError(message)

    def signed(self) -> int:
        """Return a zigzag integer."""
        value = self.unsigned()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        """Return a text with its length before it."""
        size = self.unsigned()
        end = self.at + size
        if end > len(self.data):
            message = f"a text of {size} bytes at byte {self.at}, past the end"
            raise FooterSyntaxError(message)
        value = self.data[self.at : end]
        self.at = end
        return value

    def list_header(self) -> tuple[int, int]:
        """Return the kind of the elements and their number."""
        header = self.byte()
        size = header >> 4
        return header & 0x0F, self.unsigned() if size == 15 else size

    def field(self, previous: int) -> tuple[int, int]:
        """Return the kind and id of the next field of a struct; kind 0 is its end."""
        header = self.byte()
        if header == 0:
            return 0, previous
        delta = header >> 4
        return header & 0x0F, previous + delta if delta else self.signed()

    def skip(self, kind: int) -> None:
        """Pass over a value."""
        try:
            end = skip_value(self.data, self.at, kind)
        except IndexError:
            end = len(self.data) + 1
        if end > len(self.data):
            message = f"it ends after {len(self.data)} bytes, in the middle of a value"
            raise FooterSyntaxError(message)
        self.at = end


def skip_value(data: bytes, at: int, kind: int, depth: int = 0) -> int:  # noqa: PLR0912 - a table
    """Return the place after a value of that kind; may be past the end of `data`.

    A function over bytes, because a footer is mostly skipped and this is half the time of a check. Every
    element of a list takes at least a byte, so that a false length ends soon.

    Raises:
        IndexError: the data end in the middle of the value.
        FooterSyntaxError: no such kind; nested too deep; a list that no footer has.
    """
    if kind in {4, 5, 6}:
        while data[at] >= 0x80:
            at += 1
        return at + 1
    if kind in {1, 2}:
        return at
    if kind == 8:
        size, at = read_varint(data, at)
        return at + size
    if depth > MAX_DEPTH:
        message = f"values nested deeper than {MAX_DEPTH}"
        raise FooterSyntaxError(message)
    if kind == 12:
        while (header := data[at]) != 0:
            at += 1
            if header < 0x10:
                _, at = read_varint(data, at)
            # Numbers and texts, most of what there is, without a call.
            element = header & 0x0F
            if element in {5, 6}:
                while data[at] >= 0x80:
                    at += 1
                at += 1
            elif element == 8 and (size := data[at]) < 0x80:
                at += 1 + size
            else:
                at = skip_value(data, at, element, depth + 1)
        return at + 1
    if kind in {9, 10}:
        header = data[at]
        size, at = read_varint(data, at + 1) if header >= 0xF0 else (header >> 4, at + 1)
        if size > MAX_ELEMENTS:
            message = f"a list of {size} values at byte {at}, at most {MAX_ELEMENTS} are believed"
            raise FooterSyntaxError(message)
        if (element := header & 0x0F) in {1, 2, 3}:
            return at + size
        for _ in range(size):
            at = skip_value(data, at, element, depth + 1)
        return at
    if kind in {3, 7}:
        return at + (1 if kind == 3 else 8)
    message = f"an unknown kind of value ({kind}) at byte {at}"
    raise FooterSyntaxError(message)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned integer and the place after it.

    Raises:
        IndexError: the data end in the middle of it.
        FooterSyntaxError: it has more than 64 bits.
    """
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    result = byte & 0x7F
    shift = 7
    while True:
        at += 1
        byte = data[at]
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at + 1
        shift += 7
        if shift > 63:
            message = f"an integer of more than 64 bits at byte {at}"
            raise FooterSyntaxError(message)
