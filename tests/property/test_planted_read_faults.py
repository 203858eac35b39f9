"""Would they notice? Faults that take reads of many frames, or limits that only some worlds have, to come up.

As in `test_planted_faults.py`, the simulator goes without the switchboard's own audits, so that it is the model that finds them.
"""

from collections import deque
from typing import Any

import pytest

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import PacketType
from reasonchip_broker.routing.outcomes import Outcomes
from reasonchip_broker.routing.packs import Pack
from reasonchip_broker.routing.peers import Peer, PeerState
from reasonchip_broker.routing.plain import PlainPath
from reasonchip_broker.routing.replay import Ring
from reasonchip_broker.routing.requests import Requests
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.sessions import Sessions
from reasonchip_broker.routing.table import RouteTable
from reasonchip_broker.switchboard import Switchboard
from tests.property.test_planted_faults import after, nothing, registry, walk_all
from tests.unit.switchboard.interpreted import needs_interpreted_core

FAULTS, fault = registry()
SEEDS = range(200)
"""More than elsewhere: what takes a read of just these frames is rare."""


def before(patch: pytest.MonkeyPatch, owner: type, name: str, more: Any) -> None:
    """Let a method do something first. What that returns are the method's arguments instead."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda self, *arguments: original(self, *more(self, *arguments)))


# Packs


@fault
def an_ack_that_ends_in_a_pack_spends_one_too_many(patch: pytest.MonkeyPatch) -> None:
    before(patch, Outcomes, "_spend", lambda _, pack, upto: (pack, min(pack.size, upto + 1)))


@fault
def an_ack_that_ends_in_a_pack_spends_its_last_outcomes(patch: pytest.MonkeyPatch) -> None:
    def more(_: Outcomes, pack: Pack, upto: int) -> tuple[Pack, int]:
        if upto < pack.size and not pack.spent:
            pack.frames.reverse()
        return pack, upto

    before(patch, Outcomes, "_spend", more)


@fault
def a_pack_that_is_opened_loses_its_last_outcome(patch: pytest.MonkeyPatch) -> None:
    def more(table: RouteTable, pack: Pack) -> None:
        if pack.routes is not None and len(pack.routes) > 1 and pack.routes[-1].state is RouteState.OVER:
            last = pack.routes[-1]
            table.shards[last.cookie[15]][last.cookie] = table.mark(last.principal, 0)

    after(patch, RouteTable, "open", more)


@fault
def a_pack_that_is_opened_belongs_to_anybody(patch: pytest.MonkeyPatch) -> None:
    def more(_: RouteTable, pack: Pack) -> None:
        for route in (pack.routes or ())[1:]:
            route.principal = "nobody"

    after(patch, RouteTable, "open", more)


@fault
def the_evicted_part_of_a_pack_is_counted_twice(patch: pytest.MonkeyPatch) -> None:
    original = Outcomes._evict_first

    def evict_first(self: Outcomes, queue: deque[Any]) -> None:
        kept, is_pack = self.count, type(queue[0]) is Pack and queue[0].size > 1
        original(self, queue)
        if is_pack:
            self.count -= kept - self.count

    patch.setattr(Outcomes, "_evict_first", evict_first)


@fault
def results_for_two_clients_in_one_read_are_swapped(patch: pytest.MonkeyPatch) -> None:
    def more(_: Outcomes, packs: list[Pack]) -> tuple[list[Pack]]:
        if len(packs) > 1 and packs[0].owner is not packs[-1].owner:
            packs[0].frames[-1], packs[-1].frames[-1] = packs[-1].frames[-1], packs[0].frames[-1]
        return (packs,)

    before(patch, Outcomes, "add", more)


@fault
def who_goes_on_with_a_pack_is_sent_all_of_it_again(patch: pytest.MonkeyPatch) -> None:
    def more(_: Outcomes, packs: list[Pack]) -> None:
        for pack in packs:
            if pack.size > 2:
                pack.owner.sends.append(pack.frames[0])

    after(patch, Outcomes, "add", more)


@fault
def a_pack_goes_on_after_another_outcome_was_sent(patch: pytest.MonkeyPatch) -> None:
    original = Outcomes.sent

    def sent(self: Outcomes, peer: Peer, route: Any) -> None:
        last = peer.last_pack
        original(self, peer, route)
        peer.last_pack = last

    patch.setattr(Outcomes, "sent", sent)


# Limits of outcomes and marks


@fault
def a_client_over_its_limit_loses_nearly_all(patch: pytest.MonkeyPatch) -> None:
    original = Outcomes._trim_client

    def trim_client(self: Outcomes, peer: Peer) -> None:
        is_over = peer.awaited > self._client_max
        original(self, peer)
        if is_over and peer.unacknowledged and peer.awaited > 3:
            more = peer.awaited - 3
            peer.acknowledged += more
            self._told(peer, peer.unacknowledged, more)

    patch.setattr(Outcomes, "_trim_client", trim_client)


@fault
def the_youngest_outcomes_make_room(patch: pytest.MonkeyPatch) -> None:
    original = Outcomes._evict_first

    def evict_first(self: Outcomes, queue: deque[Any]) -> None:
        queue.rotate(1)
        original(self, queue)

    patch.setattr(Outcomes, "_evict_first", evict_first)


@fault
def the_youngest_marks_go_first(patch: pytest.MonkeyPatch) -> None:
    def trim(self: RouteTable) -> None:
        for shard in self.shards:
            for cookie, entry in reversed(list(shard.items())):
                if self.spent > self._spent_max and type(entry) is tuple:
                    del shard[cookie]
                    self.spent -= 1

    patch.setattr(RouteTable, "trim", trim)


@fault
def an_outcome_goes_where_a_mark_should(patch: pytest.MonkeyPatch) -> None:
    def trim(self: RouteTable) -> None:
        for shard in self.shards:
            for cookie, entry in list(shard.items()):
                is_over = type(entry) is Route and entry.state is RouteState.OVER
                if self.spent > self._spent_max and (is_over or type(entry) is tuple):
                    del shard[cookie]
                    self.spent -= 1

    patch.setattr(RouteTable, "trim", trim)


@fault
def a_chunk_that_nobody_has_taken_makes_room(patch: pytest.MonkeyPatch) -> None:
    def more(ring: Ring, frame: bytes) -> tuple[bytes]:
        ring.taken = ring.last
        return (frame,)

    before(patch, Ring, "append", more)


# Reads


@fault
def a_read_may_have_any_number_of_jobs(patch: pytest.MonkeyPatch) -> None:
    after(patch, PlainPath, "__init__", lambda path, *_: setattr(path, "_jobs_max", 1000))


@fault
def one_result_of_a_read_is_acknowledged(patch: pytest.MonkeyPatch) -> None:
    def acknowledge(self: Switchboard, peer: Peer, frames: list[Any]) -> None:
        if any(frame[0] == PacketType.RESULT for frame in frames) and peer.state is PeerState.WELCOMED:
            peer.results += 1
            self.effects.send(peer, packets.ack(peer.results))

    patch.setattr(Switchboard, "_acknowledge", acknowledge)


@fault
def the_last_frame_of_a_long_read_is_not_read(patch: pytest.MonkeyPatch) -> None:
    before(patch, PlainPath, "runs", lambda _, peer, frames: (peer, frames[:7]))


# Frames over the limit, operators


@fault
def a_result_over_the_frame_limit_is_skipped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Requests, "oversized_result", nothing)


@fault
def anybody_drains_any_worker(patch: pytest.MonkeyPatch) -> None:
    def find(self: Sessions, _: str, name: str) -> Peer | None:
        return next((peer for (_, other), peer in self.connected.items() if other == name), None)

    patch.setattr(Sessions, "find", find)


@needs_interpreted_core
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[name](monkeypatch)
    assert walk_all(name, seeds=SEEDS)
