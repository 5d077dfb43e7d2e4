"""Takes decisions from bytes, so that a fuzzer that mutates bytes mutates decisions."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """Bytes that are used up from the front; past their end everything is zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Number of bytes not yet used."""
        return max(0, len(self._data) - self._at)

    def take(self, count: int) -> bytes:
        """Give the next bytes, fewer at the end."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def number(self, size: int) -> int:
        """Give an unsigned number of so many bytes."""
        return int.from_bytes(self.take(size), "little")

    def byte(self) -> int:
        return self.number(1)

    def word(self) -> int:
        return self.number(2)

    def pick(self, among: Sequence[T]) -> T:
        return among[self.byte() % len(among)]

    def snippet(self, among: Sequence[bytes]) -> bytes:
        """Give one of these, or bytes of the source's own."""
        which = self.byte() % (len(among) + 4)
        return among[which] if which < len(among) else self.take(1 + self.byte() % 24)
