"""The table of jobs: what is known of each, by its cookie.

A job has its entry from its RUN on: a `Route`, also while its outcome is kept, or the `Pack` that its outcome is kept in
(`packs.py`). When the outcome is acknowledged, or has to make room, a *mark* takes its place: cookie and code are all that is known of
it then, and the cookie can't run a second job. A pack of which nothing is kept is a mark as it is. So one look tells whether a cookie
is new, and to shrink a job's record is to write over it.

The entries live in many small dicts, by the last byte of the cookie: one large one would stop the loop for tens of milliseconds when
it grows. Marks go by age: the age rises sixteen times in a period, and each dict is looked through once in it, in small steps, for
marks whose time is over, so that a cookie is known for at least as many periods as its mark was given, and for little more than one
longer. There is a bound for all marks together; beyond it the oldest go, a few from each dict in turn.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final, TypeAlias

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import SPENT_SHARDS
from reasonchip_broker.protocol.codes import Code
from reasonchip_broker.routing.packs import Pack
from reasonchip_broker.routing.route import Route, RouteState

Mark: TypeAlias = tuple[int, str, int]
"""The age in which it ends, whose job it was, and the code of its outcome."""

AGES: Final = 16
"""How often the age rises in a period."""

_SHARDS_PER_AGE: Final = SPENT_SHARDS // AGES
_PACK_MIN: Final = 8
"""Fewer cookies than this have a mark that they share with others, instead of a pack of their own."""

_OVER: Final = RouteState.OVER
_FORGOTTEN: Final = RouteState.FORGOTTEN
_EMPTY: Final[list[Any]] = []

_DROPPED_AT_ONCE: Final = 8
"""Into so many parts a dict's share of all marks is divided; one is dropped at a time."""


class RouteTable:
    """All jobs that are known, by cookie. At most `spent_max` marks are kept."""

    __slots__ = (
        "_age",
        "_at_once",
        "_marks",
        "_next_to_age",
        "_next_to_trim",
        "_spent_max",
        "_to_look_at",
        "looked_at",
        "routes",
        "shards",
        "spent",
    )

    def __init__(self, spent_max: int) -> None:
        self.shards: list[dict[bytes, Any]] = [{} for _ in range(SPENT_SHARDS)]
        """Routes, packs and marks, by the cookie's last byte. Public for the hot path, which keeps the two counts as well."""
        self.routes = 0
        """How many jobs have more than a mark."""
        self.spent = 0
        """How many have a mark."""
        self._spent_max = spent_max
        self._at_once = max(1, spent_max // SPENT_SHARDS // _DROPPED_AT_ONCE)
        self._age = 0
        self._next_to_age = 0
        self._to_look_at: list[bytes] | None = None
        self.looked_at = 0
        """How many entries the dict had that was last looked through."""
        self._next_to_trim = 0
        self._marks: dict[Mark, Mark] = {}

    # Jobs

    def get(self, cookie: bytes) -> Route | None:
        """The job with this cookie, unless there is none, or nothing but a mark."""
        shard = self.shards[cookie[15]]
        entry = shard.get(cookie)
        if type(entry) is Pack and entry.state is _OVER:
            self.open(entry)
            entry = shard[cookie]
        return entry if type(entry) is Route else None

    def peek(self, cookie: bytes) -> Route | None:
        """The same, but a job in a pack is not found, and its pack is left as it is: for those who only look."""
        entry = self.shards[cookie[15]].get(cookie)
        return entry if type(entry) is Route else None

    def __getitem__(self, cookie: bytes) -> Route:
        """The job with this cookie. Raises KeyError if `get` finds none."""
        route = self.get(cookie)
        if route is None:
            raise KeyError(cookie)
        return route

    def __contains__(self, cookie: bytes) -> bool:
        """Whether the cookie is taken, if only by a mark."""
        return cookie in self.shards[cookie[15]]

    def __iter__(self) -> Iterator[Route]:
        """All jobs that are not over, and of those that are the ones that are kept by themselves. O(all that is known)."""
        return (entry for shard in self.shards for entry in shard.values() if type(entry) is Route)

    def packs(self) -> Iterator[tuple[bytes, Pack]]:
        """The cookies of all others that are over, and the packs that they are in, or were. O(all that is known)."""
        return ((cookie, entry) for shard in self.shards for cookie, entry in shard.items() if type(entry) is Pack)

    def add(self, route: Route) -> None:
        """A new job, whose cookie is not taken."""
        self.shards[route.cookie[15]][route.cookie] = route
        self.routes += 1

    def remove(self, route: Route) -> None:
        """Leave nothing of a job: its cookie is free."""
        del self.shards[route.cookie[15]][route.cookie]
        self.routes -= 1

    def open(self, pack: Pack) -> None:
        """Let each outcome of a pack that is not open, and keeps something, be kept by itself."""
        routes: list[Route] = []
        mark = self.mark(pack.principal, Code.OK)
        for place, frame in enumerate(pack.frames):
            cookie = frame[8:24]
            route = Route(cookie, pack.owner, pack.principal, pack.options_of(place), pack.kind, _OVER, 1)
            route.taken_at = pack.taken[place]
            route.deadline = pack.deadline
            if place < pack.spent:
                route.state = RouteState.FORGOTTEN
            else:
                route.frame = frame
            self.shards[cookie[15]][cookie] = mark if place < pack.spent else route
            routes.append(route)
        pack.routes = routes
        pack.frames = []
        pack.taken = []

    def remove_pack(self, pack: Pack) -> None:
        """Leave nothing of the jobs of a pack that is not open, but of those that have shrunk."""
        shards = self.shards
        for cookie in pack.cookies()[pack.spent :]:
            del shards[cookie[15]][cookie]
        self.routes -= pack.size - pack.spent
        self.close(pack)

    # Marks

    def mark(self, principal: str, code: int, periods: int = 1) -> Mark:
        """What is to be known, for so many periods at least, of a job of this principal with this code."""
        mark = (self._age + AGES * periods + 1, principal, code)
        # One tuple for all that are alike: a million of them would cost more than the cookies.
        return self._marks.setdefault(mark, mark)

    def spend(self, route: Route, code: int, periods: int = 1) -> None:
        """Leave nothing of a job but a mark."""
        self.shards[route.cookie[15]][route.cookie] = self.mark(route.principal, code, periods)
        self.routes -= 1
        self.spent += 1
        self.trim()

    def spend_pack(self, pack: Pack, upto: int) -> int:
        """Leave nothing but marks of the first so many jobs of a pack that is not open; returns the bytes of their RESULTs."""
        spent = upto - pack.spent
        if upto == pack.size:
            size = pack.bytes
            if upto < _PACK_MIN:
                mark = self.mark(pack.principal, Code.OK)
                for cookie in pack.cookies():
                    self.shards[cookie[15]][cookie] = mark
            self.close(pack)
        else:
            size = pack.shrink(upto)
        self.routes -= spent
        self.spent += spent
        if self.spent > self._spent_max:
            self.trim()
        return size

    def close(self, pack: Pack) -> None:
        """Nothing of a pack is kept any more: it is the mark of those cookies that still lead to it."""
        pack.state = _FORGOTTEN
        pack.spent = pack.size
        pack.bytes = 0
        pack.ends_in = self._age + AGES + 1
        pack.routes = pack.mixed = None
        del pack.owner, pack.options, pack.kind, pack.share
        pack.frames = pack.taken = _EMPTY

    def spent_by(self, cookie: bytes) -> tuple[str, int] | None:
        """Whose job it was and its code, if that is all that is known of it."""
        if self.get(cookie) is not None:
            return None
        entry = self.shards[cookie[15]].get(cookie)
        if type(entry) is Pack:
            return entry.principal, Code.OK
        return (entry[1], entry[2]) if entry is not None else None

    def age(self, most: int) -> bool:
        """The time of one dict in this period has come: marks in it that are over go, of so many entries at a time. Returns whether
        all were looked at: then the next dict's time may come."""
        number, age = self._next_to_age, self._age
        shard, left = self.shards[number], self._to_look_at
        if left is None:
            left = self._to_look_at = list(shard) if self.spent else []
            self.looked_at = len(left)
            if self.looked_at > most:
                # Each of its cookies was fetched into the processor's cache, which took as long as to look at some.
                return False
        over = 0
        for cookie in left[-most:]:
            entry = shard.get(cookie)
            if type(entry) is tuple:
                ends_in: int = entry[0]
            elif type(entry) is Pack and entry.state is _FORGOTTEN:
                ends_in = entry.ends_in
            else:
                continue
            if ends_in <= age:
                del shard[cookie]
                over += 1
        self.spent -= over
        del left[-most:]
        if left:
            return False
        if len(shard) < self.looked_at // 2:
            # Of itself a dict that is left by most of its entries stays as large.
            self.shards[number] = dict(shard)
        self._to_look_at = None
        self._next_to_age = number = (number + 1) % SPENT_SHARDS
        if not number % _SHARDS_PER_AGE:
            self._age = age + 1
            # New ones last longer than these, so that they are not made any more.
            self._marks = {mark: mark for mark in self._marks if mark[0] > age + AGES}
        return True

    def trim(self) -> None:
        """Let the oldest marks go, as long as there are too many; those of a pack that still keeps an outcome go with it."""
        none_in = 0
        while self.spent > self._spent_max and none_in < SPENT_SHARDS:
            shard = self.shards[self._next_to_trim]
            self._next_to_trim = (self._next_to_trim + 1) % SPENT_SHARDS
            if not shard:
                none_in += 1
                continue
            # Marks are the oldest entries, unless many outcomes are kept.
            oldest = _marks_in(islice(shard.items(), self._at_once)) or _marks_in(shard.items())[: self._at_once]
            deque(map(shard.__delitem__, oldest), maxlen=0)
            self.spent -= len(oldest)
            none_in = 0 if oldest else none_in + 1

    def invariants(self) -> tuple[list[Route], list[Pack]]:
        """All routes, and all packs that keep something. Raises InternalError if an entry is in the wrong place, or miscounted."""
        shards = self.shards
        entries = list(chain.from_iterable(map(dict.values, filter(None, shards))))
        routes = [entry for entry in entries if type(entry) is Route]
        packs = {id(entry): entry for entry in entries if type(entry) is Pack and entry.state is _OVER}
        for route in routes:
            cookie = route.cookie
            if shards[cookie[15]].get(cookie) is not route:
                raise InternalError(f"{cookie.hex()} is filed in the wrong place")
        others = len(entries) - len(routes)
        kept = sum(pack.size - pack.spent for pack in packs.values())
        if self.routes != len(routes) + kept or self.spent != others - kept:
            raise InternalError(
                f"{len(routes) + kept} jobs and {others - kept} marks are in a table that counts {self.routes} and {self.spent}"
            )
        return routes, list(packs.values())


def _marks_in(entries: Iterable[tuple[bytes, Any]]) -> list[bytes]:
    """The cookies of which nothing but a mark is left."""
    return [cookie for cookie, entry in entries if (type(entry) is Pack and entry.state is _FORGOTTEN) or type(entry) is tuple]
