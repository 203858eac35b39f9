"""A job's numbered chunks: a bounded ring of frames, from which each reader takes on at its own place.

What a ring holds is contiguous: it begins at `first` and ends at `last`. A reader that wants a number before `first` is told of a
gap, once and explicitly; that is the whole of what happens to one who comes late or reads slowly. PROGRESS and INPUT are both kept
like this."""

from collections import OrderedDict, deque

from reasonchip_broker.errors import InternalError
from reasonchip_broker.routing.allowance import Allowance


class Budget:
    """Bytes of all rings together. Those of jobs that are over are the first to go, oldest first."""

    __slots__ = ("_retired", "bytes", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self.bytes_max = bytes_max
        self._retired: OrderedDict[Ring, None] = OrderedDict()

    def retire(self, ring: "Ring") -> None:
        """The job of this ring is over; it is kept for whoever comes later."""
        if ring.bytes:
            self._retired[ring] = None

    def cleared(self, ring: "Ring") -> None:
        """This ring is empty: nothing more can be had from it."""
        self._retired.pop(ring, None)

    def make_room(self) -> None:
        """Empty rings of jobs that are over until the others have room."""
        while self.bytes > self.bytes_max and self._retired:
            self._retired.popitem(last=False)[0].clear()


class Ring:
    """Frames by number, from 1. `taken` is the highest number that need not be kept for anybody's sake: what is beyond it does not go
    for being too many bytes, since it is no more than its sender's `allowance` and what was there when a reader began anew. To all
    rings together only what is under way is worth that much."""

    __slots__ = ("_budget", "_bytes_max", "_chunks_max", "_frames", "allowance", "bytes", "first", "taken")

    def __init__(self, budget: Budget, chunks_max: int, bytes_max: int, allowance: Allowance) -> None:
        self._budget = budget
        self._chunks_max = chunks_max
        self._bytes_max = bytes_max
        self.allowance = allowance
        self._frames: deque[bytes] = deque()
        self.bytes = 0
        self.first = 1
        """The number of the oldest frame that is held, or of the next one to come."""
        self.taken = 0

    @property
    def last(self) -> int:
        """The highest number so far; 0 before the first."""
        return self.first + len(self._frames) - 1

    def get(self, number: int) -> bytes:
        """The frame with a number from `first` to `last`."""
        return self._frames[number - self.first]

    def append(self, frame: bytes) -> None:
        """The next frame, whose number is `last` + 1; older ones go to make room."""
        size = len(frame)
        self._frames.append(frame)
        self.bytes += size
        budget = self._budget
        budget.bytes += size
        if budget.bytes > budget.bytes_max:
            budget.make_room()
        while self.first < self.last and (
            len(self._frames) > self._chunks_max or self.bytes > self._bytes_max or budget.bytes > budget.bytes_max
        ):
            kept_for_somebody = self.first > self.taken and len(self._frames) <= self._chunks_max
            if kept_for_somebody and (budget.bytes <= budget.bytes_max or self.first > self.allowance.credited):
                return
            self._drop_first()

    def _drop_first(self) -> None:
        size = len(self._frames.popleft())
        self.first += 1
        self.bytes -= size
        self._budget.bytes -= size

    def skip_to(self, number: int) -> None:
        """Chunks up to `number` - 1 will never come: forget all there are, and go on from there with the whole allowance."""
        self.clear()
        self.allowance.begin(number - 1)
        self.first = number
        self.taken = number - 1

    def clear(self) -> None:
        """Forget all frames; numbers go on."""
        self._budget.bytes -= self.bytes
        self._budget.cleared(self)
        self.first = self.last + 1
        self._frames.clear()
        self.bytes = 0

    def invariants(self) -> None:
        """Raise InternalError if the ring is larger than it may be, or miscounted."""
        frames = self._frames
        if self.bytes != sum(map(len, frames)):
            raise InternalError("a ring's bytes are miscounted")
        chunks = len(frames)
        if chunks > self._chunks_max or self.taken >= self.first + chunks:
            raise InternalError(f"a ring holds {chunks} chunks, or more is taken ({self.taken}) than came ({self.last})")
