"""Numbers in little space: a judge's state has to fit into 2 kB, whatever it has seen.

Counts are stored as base-128 variable-length integers (7 bits a byte, exact at any size), floats in 4 or 8 bytes, and
the whole as base 85, whose alphabet needs no escapes in JSON.
"""

import base64
import struct
from collections.abc import Sequence


class Writer:
    """Collects numbers; `text` gives them as one string."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def count(self, value: int) -> None:
        """Add an integer >= 0."""
        while value > 0x7F:
            self._bytes.append(value & 0x7F | 0x80)
            value >>= 7
        self._bytes.append(value)

    def counts(self, values: Sequence[int]) -> None:
        """Add several integers >= 0."""
        for value in values:
            self.count(value)

    def singles(self, values: Sequence[float]) -> None:
        """Add floats that fit into 32 bits exactly."""
        self._bytes += struct.pack(f"<{len(values)}f", *values)

    def double(self, value: float) -> None:
        """Add a float, exactly."""
        self._bytes += struct.pack("<d", value)

    def text(self) -> str:
        """Everything added so far."""
        return base64.b85encode(bytes(self._bytes)).decode("ascii")


class Reader:
    """Gives the numbers of a `Writer` back, in the same order. A text that is too short raises ValueError."""

    def __init__(self, text: str) -> None:
        self._bytes, self._at = base64.b85decode(text), 0

    def count(self) -> int:
        """The next integer."""
        value = shift = 0
        while True:
            byte = self._take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def counts(self, n: int) -> list[int]:
        """The next n integers."""
        return [self.count() for _ in range(n)]

    def singles(self, n: int) -> list[float]:
        """The next n floats of 32 bits."""
        return list(struct.unpack(f"<{n}f", self._take(4 * n)))

    def double(self) -> float:
        """The next float of 64 bits."""
        value: float = struct.unpack("<d", self._take(8))[0]
        return value

    @property
    def done(self) -> bool:
        """True when nothing is left."""
        return self._at == len(self._bytes)

    def end(self) -> None:
        """Nothing more is expected; what is left over raises ValueError."""
        if not self.done:
            raise ValueError("the state is longer than this version reads")

    def _take(self, n: int) -> bytes:
        taken = self._bytes[self._at : self._at + n]
        if len(taken) < n:
            raise ValueError("the state is truncated")
        self._at += n
        return taken
