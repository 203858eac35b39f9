"""Sessions: a worker whose connection broke comes back and goes on with what it holds; names are unique.

What must be seen: the jobs of a worker with a grace wait for it and nobody is told, what it lists and the broker still has for it is
confirmed and goes on, what it does not list is lost, what it lists and no longer has takes up its slots until it reports, and of two
workers with one name the newer stays.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import CloseReason
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.features.attempts import Attempts
from reasonchip_broker.testing.simulation.features.cancelling import KILL, Cancelling
from reasonchip_broker.testing.simulation.features.streams import Streams
from reasonchip_broker.testing.simulation.records import Alarm, Hold, Worker, require

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

SESSION = "session"
Pairs = tuple[tuple[bytes, int], ...]


class Sessions(Feature):
    """Workers with a name, those that are connected and those that are waited for."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._attempts = world.find(Attempts)
        self._cancelling = world.find(Cancelling)
        self._streams = world.find(Streams)
        self.connected: dict[str, Worker] = {}
        self.away: dict[str, Worker] = {}
        model = self.model
        model.on_worker_lost.append(self._lost)
        model.when_early[SESSION] = self._over

    def restarted(self) -> None:
        self.connected, self.away = {}, {}

    # A connection ends

    def _lost(self, worker: Worker, reason: CloseReason) -> None:
        """A worker's connection is gone: its jobs are lost, or wait for it."""
        if self.connected.get(worker.name) is worker:
            del self.connected[worker.name]
        worker.resuming = []
        worker.rests = 0
        heir = self.connected.get(worker.name)
        replaced = heir is not None and not self._is_same(heir, worker)
        if not (worker.name and worker.grace_s and worker.held) or reason == CloseReason.NORMAL or replaced:
            self._end(worker)
            return
        self.away[worker.name] = worker
        worker.away = self.model.grace(SESSION, worker, worker.grace_s)

    def _end(self, worker: Worker) -> None:
        """A worker does not come back: whatever it held is lost."""
        model = self.model
        if worker.away is not None:
            worker.away.live = False
        for hold in list(worker.held.values()):
            job = hold.job
            limited = model.is_due(hold.limit)
            graced = model.waking and hold.grace is not None and hold.grace.kind == KILL and hold.grace.fires <= model.now
            model.let_go(hold)
            if job is not None:
                self._attempts.lost(job, graced, limited)

    def _over(self, alarm: Alarm) -> None:
        worker = alarm.subject
        if isinstance(worker, Worker):
            del self.away[worker.name]
            self._end(worker)

    # A connection comes

    def greeted(self, worker: Worker) -> None:
        """A worker says who it is."""
        if not worker.name:
            return
        other = self.connected.get(worker.name)
        self.connected[worker.name] = worker
        if other is not None:
            self.model.step.closes[other.link.number] = CloseReason.REPLACED
            return
        away = self.away.get(worker.name)
        if away is not None and not self._is_same(worker, away):
            del self.away[worker.name]
            self._end(away)

    @staticmethod
    def _is_same(worker: Worker, other: Worker) -> bool:
        return bool(worker.inst) and worker.inst == other.inst

    def registered(self, worker: Worker, listed: Pairs) -> Callable[[Packet], None]:
        """A worker registers, and lists what it holds. Returns what the answer must say."""
        model = self.model
        old = self.away.pop(worker.name, None) if worker.name else None
        if old is not None and old.away is not None:
            old.away.live = False
            # An operator's word outlasts the connection.
            worker.draining = worker.draining or old.draining
        pairs = list(dict.fromkeys(listed))
        confirmed = [pair for pair in pairs if old is not None and self._takes_up(worker, old, *pair)]
        for cookie, attempt in pairs:
            if cookie not in worker.held:
                self._keeps_stale(worker, cookie, attempt)
        if old is not None:
            self._end(old)
        model.step.arrived = None

        def check(packet: Packet) -> None:
            held = [tuple(pair) for pair in schemas.reply_meta(packet.meta).held]
            require(held == confirmed, f"a worker is confirmed to hold {held}, and holds {confirmed}")

        return check

    def _takes_up(self, worker: Worker, old: Worker, cookie: bytes, attempt: int) -> bool:
        """A worker holds an attempt that it held before. Returns whether it goes on with it."""
        hold = old.held.get(cookie)
        if hold is None or hold.attempt != attempt or (hold.job is None and hold.lent):
            return False
        if not hold.lent and worker.taken + hold.slots > worker.capacity:
            return False
        del old.held[cookie]
        old.lent -= hold.lent
        worker.held[cookie] = hold
        worker.lent += hold.lent
        hold.worker = worker
        job = hold.job
        if job is None:
            return False
        if job.cancelling and hold.grace is not None:
            self._cancelling.ask_to_stop(hold, hold.grace.kind == KILL)
        self._streams.resumed(job)
        return True

    def _keeps_stale(self, worker: Worker, cookie: bytes, attempt: int) -> None:
        """A worker holds an attempt that is none any more."""
        model = self.model
        hold = worker.held[cookie] = Hold(worker, None, cookie, attempt)
        hold.lent = worker.taken > worker.capacity
        worker.lent += hold.lent
        model.reserved[cookie] = model.reserved.get(cookie, 0) + 1
        job = model.jobs.get(cookie)
        if job is not None and job.waits:
            model.wait_no_more(job)
