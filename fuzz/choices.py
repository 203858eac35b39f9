"""A string of bytes as a source of decisions: the same string makes the same ones. When it has run out, every decision is the first."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Decisions, taken from the front of `data`."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """How many bytes have not been used."""
        return len(self._data) - self._at

    def bytes(self, count: int) -> bytes:
        """The next bytes, fewer if there are no more."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def below(self, bound: int) -> int:
        """A number from 0 to `bound` - 1; one byte is used for up to 256, two above."""
        return int.from_bytes(self.bytes(1 if bound <= 256 else 2), "big") % bound

    def of(self, options: Sequence[T]) -> T:
        """One of some options."""
        return options[self.below(len(options))]

    def one_in(self, bound: int) -> bool:
        """True once in so many times; False when the bytes have run out."""
        return self.left > 0 and self.below(bound) == bound - 1
