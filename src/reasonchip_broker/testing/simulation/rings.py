"""What a broker must still have of a job's chunks: the latest, in so many chunks and bytes, and whatever somebody has yet to take."""

from reasonchip_broker.limits import Limits


class Held:
    """The chunks of one job, one way, by number from 1. The broker may have dropped those before `lowest`."""

    __slots__ = ("_limits", "_sizes", "lowest")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sizes: list[int] = []
        self.lowest = 1

    @property
    def bytes_max(self) -> int:
        """No more bytes of them are kept than this."""
        return sum(self._sizes[-self._limits.ring_chunks_max :])

    def append(self, size: int, taken: int, *, crowded: bool = False) -> None:
        """The next chunk came, in a frame of so many bytes. Those up to `taken` need not be kept for anybody's sake, and where all
        jobs together may have too much (`crowded`) none of them must be."""
        sizes, limits = self._sizes, self._limits
        sizes.append(size)
        last = len(sizes)
        first, lowest = max(1, last - limits.ring_chunks_max + 1), taken + 1
        if not crowded:
            room, latest = limits.ring_bytes_max - size, last
            while latest > first and room >= sizes[latest - 2]:
                latest -= 1
                room -= sizes[latest - 1]
            lowest = min(lowest, latest)
        self.lowest = max(self.lowest, first, min(last, lowest))

    def drop(self, missing: int = 0) -> None:
        """All that there was may be gone, and so many that were to follow never come."""
        self._sizes += [0] * missing
        self.lowest = len(self._sizes) + 1
