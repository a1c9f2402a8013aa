"""Reads values from the bytes of a record batch."""


class MalformedError(ValueError):
    """A record batch or a record violates its format or a bound; the message says how."""


class ByteReader:
    """Reads one value after the other. Each method raises MalformedError."""

    __slots__ = ("_at", "_bytes")

    def __init__(self, data: memoryview) -> None:
        self._bytes = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        """Whether all bytes are read."""
        return self._at == len(self._bytes)

    @property
    def rest(self) -> int:
        """How many bytes are left."""
        return len(self._bytes) - self._at

    def integer(self) -> int:
        """Read a variable-length, zig-zag encoded integer."""
        value = shift = 0
        while shift < 70 and self._at < len(self._bytes):
            byte = self._bytes[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
        raise MalformedError("an integer has no end")

    def take(self, length: int) -> memoryview:
        """Read exactly `length` bytes."""
        if not 0 <= length <= len(self._bytes) - self._at:
            raise MalformedError(f"the length {length} exceeds it")
        self._at += length
        return self._bytes[self._at - length : self._at]

    def nullable(self) -> memoryview | None:
        """Read bytes with their length before them; the length -1 stands for None."""
        length = self.integer()
        return None if length == -1 else self.take(length)
