"""Progress out of a running job, input into it: numbered, in order, and no faster than whoever takes it.

Both ways a chunk is appended to a ring (`replay.py`) and passed on to readers that stand at their own place in it: to a job's
followers, as far as each has given credit, and to the worker that holds its present attempt. What a reader has taken is credited to
the sender again, hop by hop, once a step. The *primary* follower, the job's owner, holds the worker back; other followers miss what
was overwritten, and are told so. A job that nobody reads, or whose owner has not asked for progress, holds nobody back.

When a job is over, all that is left for a follower is sent before the RESULT, whatever its credit: it is no more than a ring.
"""

from typing import Final

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.binary import NUMBER_MAX, readdressed
from reasonchip_broker.protocol.codes import Code, Dialect, PacketType
from reasonchip_broker.protocol.frames import OVERSIZED, Frame
from reasonchip_broker.routing.allowance import Allowance, size_of
from reasonchip_broker.routing.answers import Answers
from reasonchip_broker.routing.assignment import Assignment, AssignmentState
from reasonchip_broker.routing.counters import Counters
from reasonchip_broker.routing.effects import Effects
from reasonchip_broker.routing.extras import Extras, Follower, Sender
from reasonchip_broker.routing.peers import Peer, PeerState
from reasonchip_broker.routing.replay import Budget, Ring
from reasonchip_broker.routing.route import Route, RouteState
from reasonchip_broker.routing.table import RouteTable

_GONE: Final = PeerState.GONE
_OVER: Final = RouteState.OVER
_HOLDING: Final = frozenset({AssignmentState.HELD, AssignmentState.PARKED})


class Streams:
    """The progress and input of all jobs. `routes` is the dispatcher's table."""

    __slots__ = ("_answers", "_counters", "_effects", "_limits", "_routes", "budget", "touched")

    def __init__(self, limits: Limits, effects: Effects, counters: Counters, routes: RouteTable, answers: Answers) -> None:
        self._limits = limits
        self._effects = effects
        self._counters = counters
        self._routes = routes
        self._answers = answers
        self.budget = Budget(limits.rings_bytes_max)
        self.touched: dict[Route, None] = {}
        """Jobs of which something was taken in this step: their senders are to be credited."""

    def _ring(self) -> Ring:
        limits = self._limits
        allowance = Allowance(limits.credit_frames, limits.credit_bytes_max)
        return Ring(self.budget, limits.ring_chunks_max, limits.ring_bytes_max, allowance)

    def extras_of(self, route: Route) -> Extras:
        """The further record of a job; made, if it has none."""
        extras = route.extras
        if extras is None:
            extras = route.extras = Extras()
            extras.input_credit = self._limits.credit_frames
        return extras

    # Progress

    def progress(self, peer: Peer, frame: Frame) -> None:
        """PROGRESS from a worker: it counts if this worker holds this attempt, and if it is the next chunk."""
        kind, cookie, raw, code, attempt, number, meta_length = frame
        worker = peer.worker
        assignment = worker.assignments.get(cookie) if worker is not None else None
        if assignment is None or attempt != assignment.attempt or assignment.state not in _HOLDING or code:
            self._counters.progress_dropped += 1
            return
        route = self._routes[cookie]
        extras = route.extras or self.extras_of(route)
        ring = extras.progress
        if ring is None:
            ring = extras.progress = self._ring()
        number += extras.base
        missing = number - ring.last - 1
        if missing or number > NUMBER_MAX:
            if missing < 0 or not extras.after_break or number > NUMBER_MAX:
                self._counters.progress_dropped += 1
                return
            self._flush(route, extras)
            # What was lost on the way was sent within the credit of the connection that broke; this one has all of its own.
            ring.skip_to(number)
        extras.after_break = False
        within = ring.allowance.take(size_of(raw, meta_length))
        if kind >= OVERSIZED or not within:
            # It was too large, or more than this worker was allowed: that it is missing is what can be told of it.
            raw = packets.gap(PacketType.PROGRESS, cookie, attempt, number, number)
            self._counters.progress_dropped += 1
        elif extras.base:
            raw = readdressed(raw, attempt, number)
        ring.append(raw)
        self._counters.progress += 1
        for follower in extras.followers:
            self._pump(route, ring, follower)
        self.touched[route] = None

    def _pump(self, route: Route, ring: Ring, follower: Follower, *, everything: bool = False) -> None:
        """Send a follower what it may be sent, or `everything` there is: that takes its credit up all the same."""
        number = follower.next
        if not number:
            return
        last = ring.last
        peer = follower.peer
        if peer.state is _GONE or (peer.congested and not everything):
            return
        if number < ring.first and (follower.credit or everything):
            self._effects.send(peer, packets.gap(PacketType.PROGRESS, route.cookie, route.attempt, number, ring.first - 1))
            number = ring.first
            if follower.credit:
                follower.credit -= 1
        while ring.first <= number <= last and (follower.credit or everything):
            self._effects.send(peer, ring.get(number))
            number += 1
            if follower.credit:
                follower.credit -= 1
        follower.next = number

    def _flush(self, route: Route, extras: Extras) -> None:
        if extras.progress is not None:
            for follower in extras.followers:
                self._pump(route, extras.progress, follower, everything=True)

    def primary(self, route: Route) -> Follower | None:
        """The follower that holds the worker back: the owner, if it lives and wants progress."""
        owner = route.owner
        if route.extras is not None and owner.state is not _GONE:
            for follower in route.extras.followers:
                if follower.peer is owner:
                    return follower if follower.next else None
        return None

    def follow(self, route: Route, follower: Follower) -> None:
        """A follower has come, or stands elsewhere: send it what there is for it."""
        if route.extras is not None and route.extras.progress is not None:
            follower.next = min(follower.next, route.extras.progress.last + 1)
            self._pump(route, route.extras.progress, follower, everything=route.state is _OVER)
        elif follower.next > 1:
            # It has seen progress that this broker has not: numbers begin at 1 all the same.
            follower.next = 1
        self.touch(route)

    def touch(self, route: Route) -> None:
        """Somebody has taken something of a job, or nobody is there any more to hold its worker back."""
        if route.extras is not None and route.state is not _OVER:
            self.touched[route] = None

    def over(self, route: Route) -> None:
        """A job is about to be over: its followers get what is left for them."""
        if route.extras is not None:
            self._flush(route, route.extras)
            self.touched.pop(route, None)
            if route.extras.inputs is not None:
                route.extras.inputs.clear()
            if route.extras.progress is not None:
                self.budget.retire(route.extras.progress)

    # Input

    def input(self, peer: Peer, frame: Frame) -> None:
        """INPUT from a client: the next chunk for a live job of its principal."""
        _, cookie, raw, _, _, number, meta_length = frame
        route = self._routes.get(cookie)
        if route is None or not (route.principal == peer.principal or route.owner is peer) or route.state is _OVER:
            self._answers.reply(peer, PacketType.INPUT, Code.COOKIE_NOT_FOUND, "No such cookie", cookie, number)
            return
        assignment = route.assignment
        if assignment is not None and assignment.worker.peer.dialect is Dialect.JSON:
            self._answers.reply(peer, PacketType.INPUT, Code.NOT_ALLOWED, "the job's worker takes no input", cookie, number)
            return
        extras = self.extras_of(route)
        ring = extras.inputs
        if ring is None:
            ring = extras.inputs = self._ring()
        last = ring.last
        if number <= last:
            if number >= ring.first and ring.get(number) != raw:
                # Two senders who don't know of each other have counted alike: to drop the later one's would lose it without a word.
                sentence = f"input {last + 1} was expected; {number} came from somebody else"
                self._answers.reply(peer, PacketType.INPUT, Code.BAD_PACKET, sentence, cookie, number)
                return
            # It has arrived already, perhaps on another connection: credited at once, and dropped.
            self._effects.send(peer, packets.credit(cookie, 0, 1))
            return
        if number != last + 1:
            self._answers.reply(peer, PacketType.INPUT, Code.BAD_PACKET, f"input {last + 1} was expected", cookie, number)
            return
        size = size_of(raw, meta_length)
        if not ring.allowance.admits(size):
            self._answers.reply(
                peer, PacketType.INPUT, Code.OVERLOADED, "there is no credit for more input", cookie, number, retry_ms=1000
            )
            return
        ring.append(raw)
        ring.allowance.take(size)
        if not extras.senders or extras.senders[-1].peer is not peer:
            extras.senders.append(Sender(peer))
        extras.senders[-1].last = number
        self.pump_input(route)
        self.touched[route] = None

    def oversized_input(self, peer: Peer, frame: Frame) -> None:
        """INPUT over the frame limit."""
        _, cookie, raw, _, _, number, _ = frame
        sentence = packets.too_long(raw, self._limits.frame_bytes_max)
        self._answers.reply(peer, PacketType.INPUT, Code.TOO_LARGE, sentence, cookie, number)

    def pump_input(self, route: Route) -> None:
        """Send a job's worker what there is for it, as far as it has given credit."""
        extras, assignment = route.extras, route.assignment
        if extras is None or extras.inputs is None or assignment is None or not self._holds(assignment):
            return
        ring, peer = extras.inputs, assignment.worker.peer
        if extras.input_next < ring.first and extras.input_credit:
            gap = packets.gap(PacketType.INPUT, route.cookie, route.attempt, extras.input_next, ring.first - 1)
            self._effects.send(peer, gap)
            extras.input_next = ring.first
            extras.input_credit -= 1
        while ring.first <= extras.input_next <= ring.last and extras.input_credit:
            frame = readdressed(ring.get(extras.input_next), route.attempt, extras.input_next)
            self._effects.send(peer, frame)
            extras.input_next += 1
            extras.input_credit -= 1
        ring.taken = max(ring.taken, extras.input_next - 1)

    @staticmethod
    def _holds(assignment: Assignment) -> bool:
        peer = assignment.worker.peer
        return assignment.state in _HOLDING and peer.state is not _GONE and peer.dialect is not Dialect.JSON

    def attempt_began(self, route: Route, extras: Extras) -> None:
        """A job was sent to a worker: what that is allowed begins anew, and its input from the beginning."""
        if extras.progress is not None:
            extras.base = extras.progress.last
            extras.progress.allowance.begin(extras.base)
        extras.after_break = False
        extras.input_next = 1
        extras.input_credit = self._limits.credit_frames
        self.pump_input(route)
        self.touched[route] = None

    def resumed(self, route: Route, extras: Extras) -> None:
        """The worker of a job is back, and goes on with this attempt."""
        if extras.progress is not None:
            extras.progress.allowance.begin(extras.progress.last)
        extras.after_break = True
        # What the worker had not given credit for may not have arrived; what has, it knows by its number.
        not_taken = self._limits.credit_frames - extras.input_credit
        extras.input_next = max(1, extras.input_next - not_taken)
        extras.input_credit = self._limits.credit_frames
        self.pump_input(route)
        self.touched[route] = None

    # Credit

    def credit(self, peer: Peer, frame: Frame) -> None:
        """CREDIT: for progress from who follows a job, for input from the worker that holds it."""
        _, cookie, _, _, attempt, frames, _ = frame
        route = self._routes.get(cookie)
        extras = route.extras if route is not None else None
        if route is None or extras is None or route.state is _OVER:
            return
        assignment = route.assignment
        if attempt:
            # From who holds this attempt, for input: a worker may hold a job that a handler of its own has submitted.
            if assignment is not None and assignment.worker is peer.worker and attempt == assignment.attempt:
                outstanding = self._limits.credit_frames - extras.input_credit
                extras.input_credit += max(0, min(frames, outstanding))
                self.pump_input(route)
        else:
            for follower in extras.followers:
                if follower.peer is peer:
                    outstanding = self._limits.credit_frames - follower.credit
                    follower.credit += max(0, min(frames, outstanding))
                    if extras.progress is not None:
                        self._pump(route, extras.progress, follower)
        self.touched[route] = None

    def writable(self, peer: Peer) -> None:
        """A connection takes more again: go on with what it follows."""
        for route in list(peer.ties or ()):
            extras = route.extras
            if extras is not None and extras.progress is not None and route.state is not _OVER:
                for follower in extras.followers:
                    if follower.peer is peer:
                        self._pump(route, extras.progress, follower)
                self.touched[route] = None

    @property
    def is_settled(self) -> bool:
        """Whether nobody is to be credited."""
        return not self.touched

    def settle(self) -> None:
        """Credit the senders of whatever was taken in this step."""
        touched = self.touched
        if touched:
            self.touched = {}
            for route in touched:
                if route.extras is not None and route.state is not _OVER:
                    self._settle(route, route.extras)

    def _settle(self, route: Route, extras: Extras) -> None:
        ring, assignment = extras.progress, route.assignment
        if ring is not None:
            primary = self.primary(route)
            ring.taken = ring.last if primary is None else primary.next - 1
            if assignment is not None and ring.taken > ring.allowance.credited and self._holds(assignment):
                credit = packets.credit(route.cookie, assignment.attempt, ring.allowance.credit(ring.taken))
                self._effects.send(assignment.worker.peer, credit)
        inputs, senders = extras.inputs, extras.senders
        while inputs is not None and senders and inputs.taken > inputs.allowance.credited:
            sender = senders[0]
            taken = min(inputs.taken, sender.last)
            credited = inputs.allowance.credit(taken)
            if sender.peer.state is not _GONE:
                self._effects.send(sender.peer, packets.credit(route.cookie, 0, credited))
            if taken == sender.last:
                senders.popleft()

    def invariants(self, routes: list[Route]) -> None:
        """Raise InternalError if a ring of these jobs is not as it should be, or does not agree with what its sender has under way."""
        for route in routes:
            extras = route.extras
            if extras is not None:
                if extras.progress is not None:
                    _check_ring(extras.progress)
                if extras.inputs is not None:
                    _check_ring(extras.inputs)


def _check_ring(ring: Ring) -> None:
    ring.invariants()
    if ring.allowance.credited + ring.allowance.under_way != ring.last:
        raise InternalError(f"credit for {ring.allowance.credited} of {ring.last} chunks, the rest not under way")
