"""A reader of Thrift's compact protocol, as much of it as a Parquet footer takes."""


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

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over a value. Every element of a list takes at least a byte, so a false length ends soon."""
        if depth > 16:
            message = "values nested deeper than 16 in a footer"
            raise FooterSyntaxError(message)
        match kind:
            case 1 | 2:
                pass
            case 3:
                self.byte()
            case 4 | 5 | 6:
                self.unsigned()
            case 7:
                for _ in range(8):
                    self.byte()
            case 8:
                self.binary()
            case 9 | 10:
                element, size = self.list_header()
                for _ in range(size):
                    self.byte() if element in {1, 2} else self.skip(element, depth + 1)
            case 12:
                self._skip_struct(depth)
            case _:
                message = f"an unknown kind of value ({kind}) at byte {self.at}"
                raise FooterSyntaxError(message)

    def _skip_struct(self, depth: int) -> None:
        last = 0
        while True:
            kind, last = self.field(last)
            if kind == 0:
                return
            self.skip(kind, depth + 1)
