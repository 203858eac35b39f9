"""How much of one job's PROGRESS or INPUT its sender may have under way: sent, and not credited yet.

Both ends count alike, in chunks and in bytes of payload, so that whoever keeps to its allowance is never told that it did not. One
chunk alone is always allowed: whatever its size, it could never be sent otherwise."""

from collections import deque
from typing import Final

from reasonchip_broker.limits import CHUNK_HEAD_BYTES_MAX
from reasonchip_broker.protocol.binary import payload_length
from reasonchip_broker.protocol.frames import HEADER_BYTES

_META_BYTES_MAX: Final = CHUNK_HEAD_BYTES_MAX - HEADER_BYTES


class Allowance:
    """What is under way of a sender's chunks, oldest first: at most so many, and so many bytes."""

    __slots__ = ("_bytes", "_bytes_max", "_chunks_max", "_sizes", "credited")

    def __init__(self, chunks_max: int, bytes_max: int) -> None:
        self._chunks_max = chunks_max
        self._bytes_max = bytes_max
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self.credited = 0
        """Up to which number its sender was given credit again. Those under way are the next ones."""

    @property
    def under_way(self) -> int:
        """How many chunks are under way."""
        return len(self._sizes)

    def admits(self, size: int) -> bool:
        """Whether another chunk, with so many bytes of payload, may be sent now."""
        sizes = self._sizes
        return not sizes or (len(sizes) < self._chunks_max and self._bytes + size <= self._bytes_max)

    def take(self, size: int) -> bool:
        """Another chunk came. Returns whether that was within the allowance; its sender counts it in either case."""
        sizes = self._sizes
        total = self._bytes + size
        within = not sizes or (len(sizes) < self._chunks_max and total <= self._bytes_max)
        sizes.append(size)
        self._bytes = total
        return within

    def credit(self, number: int) -> int:
        """The chunks up to a number, of those under way, are credited. Returns how many these are."""
        frames, sizes = number - self.credited, self._sizes
        if frames == len(sizes):
            sizes.clear()
            self._bytes = 0
        else:
            for _ in range(frames):
                self._bytes -= sizes.popleft()
        self.credited = number
        return frames

    def begin(self, number: int) -> None:
        """What comes after a number has the whole allowance: nothing is under way on the connection that it comes on."""
        self._sizes.clear()
        self._bytes = 0
        self.credited = number


def size_of(frame: bytes, meta_length: int) -> int:
    """How many bytes a chunk takes up: those of its payload, and of its meta only what no chunk that makes sense has. `meta_length` is
    that of a frame which is whole, and 0 of one that was skipped, as the decoder has it."""
    size = len(frame) - HEADER_BYTES - meta_length
    if size and meta_length <= _META_BYTES_MAX:
        return size
    return max(payload_length(frame), len(frame) - CHUNK_HEAD_BYTES_MAX)
