"""How much of one job's PROGRESS or INPUT its sender may have under way: sent, and not credited yet.

Both ends count alike, in chunks and in bytes of payload, so that whoever keeps to its allowance is never told that it did not. One
chunk alone is always allowed: whatever its size, it could never be sent otherwise."""

from collections import deque

from reasonchip_broker.limits import CHUNK_HEAD_BYTES_MAX
from reasonchip_broker.protocol.binary import payload_length


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

    def sent(self, size: int) -> None:
        """Another chunk came, within the allowance or not: its sender counts it in either case."""
        self._sizes.append(size)
        self._bytes += size

    def credit(self, number: int) -> int:
        """The chunks up to a number, of those under way, are credited. Returns how many these are."""
        frames = number - self.credited
        for _ in range(frames):
            self._bytes -= self._sizes.popleft()
        self.credited = number
        return frames

    def begin(self, number: int) -> None:
        """What comes after a number has the whole allowance: nothing is under way on the connection that it comes on."""
        self._sizes.clear()
        self._bytes = 0
        self.credited = number


def size_of(frame: bytes) -> int:
    """How many bytes a chunk takes up: those of its payload, and of its meta only what no chunk that makes sense has."""
    return max(payload_length(frame), len(frame) - CHUNK_HEAD_BYTES_MAX)
