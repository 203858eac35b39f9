"""Whose turn it is among the jobs that wait for one pool.

Jobs that wait stand in *lines* (`backlog.py`): one for each class, priority and fairness key. A pool lists those that it may serve. For
each priority level it has a heap of keys, the one that has used least first; and for each of those, in a `Row`, a heap of its lines,
the one whose first job came first on top. So whatever a key uses changes the place of one entry, however many lines it has.

What a heap says may be out of date: a key has had a turn since, the first job of a line has left. Then the entry comes up too early,
never too late, and is put right when it does; where a key has come to have used less than was said, a better entry is added, and the
earlier one is void. So nobody ever goes through a heap to find something, and each step is O(log keys + log lines)."""

from heapq import heapify, heappop, heappush, heapreplace
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from reasonchip_broker.limits import PRIORITIES
from reasonchip_broker.routing.records import with_constructor_in_c
from reasonchip_broker.routing.route import RouteState

if TYPE_CHECKING:
    from reasonchip_broker.routing.lines import Line
    from reasonchip_broker.routing.shares import Share

Listing: TypeAlias = tuple[Any, ...]
"""The sequence of a line's first job, as it was; the line's number; the line. Its type has no fixed length, since tuples of one are
values without an identity where this is compiled, and it is by its identity that it is valid or void."""

_QUEUED: Final = RouteState.QUEUED
_VOID_MIN: Final = 64
_ALL: Final = (1 << PRIORITIES) - 1
_WATCHED: Final = 1 << PRIORITIES


class Entry:
    """The place of a row among those of its level: that of its key, and of its first job, as they were. The least goes first."""

    __slots__ = ("number", "order", "row", "sequence")

    def __init__(self, order: float, sequence: int, number: int, row: Any) -> None:
        self.order = order
        self.sequence = sequence
        self.number = number
        """No two have the same: what comes after it is never compared."""
        self.row = row
        """Of the one that stands for none, None."""

    def __lt__(self, other: "Entry") -> bool:
        if self.order != other.order:
            return self.order < other.order
        if self.sequence != other.sequence:
            return self.sequence < other.sequence
        return self.number < other.number


if isinstance(Entry.__lt__, FunctionType):
    globals()["Entry"] = with_constructor_in_c(Entry, is_ordered=True)

_NOWHERE: Final = Entry(0.0, 0, 0, None)
"""The entry of a row that is not listed any more: one of its own would lead back to it, and nobody collects cycles."""


class Row:
    """The lines of one key that wait for one pool in one level."""

    __slots__ = ("_sweep_at", "entry", "lines", "share", "turns")

    def __init__(self, turns: "Turns", share: "Share") -> None:
        self.turns = turns
        self.share = share
        self.lines: list[Listing] = []
        """A heap."""
        self.entry: Entry
        """The one that is valid, in its level's heap."""
        self._sweep_at = _VOID_MIN

    def add(self, listing: Listing) -> None:
        """One more line; those in which nothing waits any more are dropped now and then, if none of them comes up."""
        if len(self.lines) >= self._sweep_at:
            listings = self.turns.listings
            valid = [other for other in self.lines if listings.get(other[2]) is other]
            self.lines = [other for other in valid if other[2].size]
            for other in valid:
                if not other[2].size:
                    del listings[other[2]]
            heapify(self.lines)
            self._sweep_at = max(_VOID_MIN, 2 * len(self.lines))
        heappush(self.lines, listing)

    def first(self) -> "Line | None":
        """The line whose first job came first. (What is said of one that has no other beside it is put right when it has.)"""
        lines, listings = self.lines, self.turns.listings
        while lines:
            listing = lines[0]
            line: Line = listing[2]
            if listings.get(line) is not listing:
                heappop(lines)
                continue
            queue = line.queue
            head = queue[0] if queue and queue[0].state is _QUEUED else line.head()
            if head is None:
                heappop(lines)
                del listings[line]
            elif len(lines) > 1 and head.sequence != listing[0]:
                fresh: Listing = (head.sequence, listing[1], line)
                listings[line] = fresh
                heapreplace(lines, fresh)
            else:
                return line
        return None


class Turns:
    """The lines that wait for one pool."""

    __slots__ = ("_forget_at", "_heaps", "_numbers", "_orders", "_rows", "_void", "_watchers", "levels", "listings")

    def __init__(self) -> None:
        self.levels = 0
        """A bit for each level that has something in its heap, if only what is void, and one if the pool is `watched`: 0 means that no
        slot that becomes free is of interest. Public for the hot path."""
        self.listings: dict[Line, Listing] = {}
        """What is valid, of each line that is listed."""
        self._rows: dict[tuple[int, Share], Row] = {}
        self._heaps: list[list[Entry]] = [[] for _ in range(PRIORITIES)]
        self._orders = [0.0] * PRIORITIES
        """How far each level has come: what the last key that had a turn, and is no newcomer, had used."""
        self._numbers = 0
        self._void = 0
        self._watchers = 0
        self._forget_at = _VOID_MIN

    def add(self, line: "Line", now: float) -> None:
        """List a line that has a job, in its present level; if it is listed in another one, no longer there."""
        head = line.head()
        if head is None:
            return
        listing: Listing = (head.sequence, line.number, line)
        self.listings[line] = listing
        level, share = line.level, line.share
        row = self._rows.get((level, share))
        if row is None:
            if len(self._rows) >= self._forget_at:
                self._forget_empty()
            row = self._rows[level, share] = Row(self, share)
            share.rows[row] = level
            self._enter(row, level, share.order(now), head.sequence)
        elif head.sequence < row.entry.sequence:
            self._enter_again(row, level, share.order(now), head.sequence)
        row.add(listing)

    def drop(self, line: "Line") -> None:
        """A line that is listed is not, from now on."""
        del self.listings[line]

    def _enter(self, row: Row, level: int, order: float, sequence: int) -> None:
        self._numbers += 1
        entry = row.entry = Entry(order, sequence, self._numbers, row)
        heappush(self._heaps[level], entry)
        self.levels |= 1 << level

    def moved(self, row: Row, level: int, order: float) -> None:
        """A key has used less than was said of it."""
        self._enter_again(row, level, order, row.entry.sequence)

    def _enter_again(self, row: Row, level: int, order: float, sequence: int) -> None:
        """A row comes before where it stands; the entry there is void from now on."""
        self._enter(row, level, order, sequence)
        self._void += 1
        if self._void > len(self._rows) + _VOID_MIN:
            self._sweep()

    def first(self, now: float) -> "Line | None":
        """The line whose turn it is; it has a job."""
        while levels := self.levels & _ALL:
            level = levels.bit_length() - 1
            heap = self._heaps[level]
            while heap:
                entry = heap[0]
                row: Row = entry.row
                if row.entry is not entry:
                    heappop(heap)
                    self._void -= 1
                    continue
                order, sequence = row.share.order(now), entry.sequence
                # Where there is no other, nothing has to be put right.
                if order == entry.order or len(heap) == 1:
                    line = row.first()
                    if line is None:
                        heappop(heap)
                        self._forget(level, row)
                        continue
                    sequence = line.queue[0].sequence
                    if sequence == entry.sequence or len(heap) == 1:
                        return line
                self._numbers += 1
                fresh = row.entry = Entry(order, sequence, self._numbers, row)
                heapreplace(heap, fresh)
            self.levels &= ~(1 << level)
        return None

    def had(self, line: "Line", now: float) -> None:
        """A line, the one that `first` returned, has its turn now.

        What a key lacks that has not waited lately is no credit: it has had this one turn before all others, and goes on from
        where those are. That is what the last one of them had used, without what its slots are expected to use yet: what turns
        out to be less would be put right for that one, and never for the newcomer."""
        share, level = line.share, line.level
        if share.running:
            share.order(now)
        if share.is_fresh and share.usage < self._orders[level]:
            share.lift(self._orders[level] - share.usage)
        else:
            self._orders[level] = share.usage
        share.is_fresh = False

    def given(self, line: "Line", now: float) -> None:
        """The first job of a line, the one that `first` returned, has left it, and is given a slot: its line had its turn.

        So its key has used more, and its entry is put right before it comes up. Where that is its only slot the entry says what it has
        used by now, which is not too late either when the job is over."""
        share = line.share
        if share.is_fresh:
            self.had(line, now)
        else:
            # What it has used was counted just now, by `first`.
            self._orders[line.level] = share.usage
        share.began(1, now)
        if share.running == 1:
            heap = self._heaps[line.level]
            entry = heap[0]
            row: Row = entry.row
            sequence = line.queue[0].sequence if line.size and len(row.lines) == 1 else entry.sequence
            self._numbers += 1
            fresh = row.entry = Entry(share.usage, sequence, self._numbers, row)
            heapreplace(heap, fresh)

    def watch(self, more: int) -> None:
        """So many more want to know of each slot that becomes free, though nothing may be listed."""
        self._watchers += more
        self.levels = self.levels & _ALL | (_WATCHED if self._watchers else 0)

    def _forget_empty(self) -> None:
        """Keys of which nothing waits any more, and that have not come up since."""
        for (level, _), row in list(self._rows.items()):
            if row.first() is None:
                self._forget(level, row)
        self._forget_at = max(_VOID_MIN, 2 * len(self._rows))
        self._sweep()

    def _forget(self, level: int, row: Row) -> None:
        del self._rows[level, row.share]
        del row.share.rows[row]
        row.entry = _NOWHERE

    def close(self) -> None:
        """The pool is gone."""
        for (level, _), row in list(self._rows.items()):
            self._forget(level, row)
        self.listings.clear()
        self._sweep()

    def rescaled(self, factor: float) -> None:
        """All shares count in other units from now on."""
        self._orders = [order * factor for order in self._orders]
        for row in self._rows.values():
            row.entry = Entry(row.entry.order * factor, row.entry.sequence, row.entry.number, row)
        self._sweep()

    def _sweep(self) -> None:
        """Drop the entries that are void."""
        for heap in self._heaps:
            heap.clear()
        self.levels &= _WATCHED
        self._void = 0
        for (level, _), row in self._rows.items():
            self._heaps[level].append(row.entry)
            self.levels |= 1 << level
        for heap in self._heaps:
            heapify(heap)
