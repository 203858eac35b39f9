"""Connections: they come, say HELLO and REGISTER or do not, fall silent, stop reading, break, and come again.

What must be seen: WELCOME and the answer to REGISTER, PONG to each PING, a PING before a lease ends, the end of a lease and of a
handshake at their time and not before, and nothing sent to whom it does not concern.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.routing.effects import Close
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.features.sessions import Pairs, Sessions
from reasonchip_broker.testing.simulation.model import ONLY_OK
from reasonchip_broker.testing.simulation.records import Check, Client, End, Labels, Worker, fires_at, require
from reasonchip_broker.testing.switchboard_driver import FakeLink

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

PEERS_MAX = 6
OFFERS = (("*",), ("p.*",), ("p.a",), ("p.b", "q"))
LABELS: tuple[Labels, ...] = ((), (), (("gpu", "new"),), (("gpu", "new"), ("site", "here")), (("gpu", "old"), ("site", "here")))
CAPACITIES = (1, 2, 2, 3, 5, 9)
DIALECTS = (Dialect.BINARY, Dialect.BINARY, Dialect.JSON)
NOT_ALLOWED, WORKER_NOT_FOUND = frozenset({Code.NOT_ALLOWED}), frozenset({Code.WORKER_NOT_FOUND})
LATE_S = 0.02
"""An end that is due may come this much later, since time moves in steps."""

NAMES = ("ann", "bob")
INSTANCES = (b"first process" + bytes(3), b"other process" + bytes(3), b"")
Operation = tuple[object, ...]


def session(chooser: Chooser) -> tuple[str, bytes, int, Pairs]:
    """A worker's name, process, grace, and what it says it holds: mostly what one of this name held, sometimes less, or other jobs."""
    one_of, chance = chooser.one_of, chooser.chance
    sessions = chooser.world().find(Sessions)
    name = one_of(list(sessions.away)) if sessions.away and chance(0.7) else one_of(NAMES)
    old = sessions.away.get(name) or sessions.connected.get(name)
    inst = old.inst if old is not None and chance(0.8) else one_of(INSTANCES)
    held = [(hold.cookie, hold.attempt) for hold in old.held.values() if chance(0.8)] if old is not None else []
    if chance(0.1):
        cookie = chooser.cookie()
        job = chooser.world().model.jobs.get(cookie)
        if job is None or job.attempt > 1:
            held.append((cookie, one_of((1, 1, 2)) if job is None else job.attempt - 1))
    return name, inst, one_of((0, 1, 3, 3)), tuple(held)


class Connections(Feature):
    """Who is there."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        model = self.model
        self._sessions = world.find(Sessions)
        self.lease_floor = 0.0
        """Before this time silence does not count: the broker stood still."""
        self.pings: list[FakeLink] = []
        model.seen[PacketType.PING] = self._saw_ping
        model.on_closed[CloseReason.HEARTBEAT_TIMEOUT] = self._saw_expiry
        model.on_closed[CloseReason.HANDSHAKE_TIMEOUT] = self._saw_handshake_timeout

    def operations(self) -> dict[str, Callable[..., None]]:
        return {
            "connect client": self.connect_client,
            "connect worker": self.connect_worker,
            "connect stranger": self.connect_stranger,
            "register": self.register,
            "disconnect": self.disconnect,
            "congest": self.congest,
            "unblock": self.unblock,
            "silence": self.silence,
            "ping": self.ping,
            "drain worker": self.drain_worker,
            "drain named": self.drain_named,
        }

    def restarted(self) -> None:
        self.lease_floor, self.pings = 0.0, []

    # What may happen

    def _hello(self, end: End, meta: schemas.HelloMeta) -> None:
        self.model.join(end)
        if not end.is_json:
            self.model.expect(end, PacketType.WELCOME)
            self.world.send(end, packets.hello(meta))

    def connect_client(self, id: int, dialect: Dialect, principal: str = "", queues: bool = True) -> None:
        """A client connects, and says HELLO if that is its custom."""
        # In a record that was kept as text it is a plain number.
        dialect = Dialect(dialect)
        queues = queues or dialect == Dialect.BINARY
        link = self.driver.connect(Role.CLIENT, dialect, principal=principal, queues=queues)
        self._hello(Client(id, link, self.model.now, principal, queues), schemas.HelloMeta())

    def connect_worker(
        self,
        id: int,
        dialect: Dialect,
        capacity: int,
        serves: tuple[str, ...],
        name: str = "",
        inst: bytes = b"",
        grace_s: int = 0,
        held: Pairs = (),
        labels: Labels = (),
    ) -> None:
        """A worker connects and registers; with a name it may be one that comes back, and lists what it holds."""
        dialect = Dialect(dialect)
        worker = Worker(id, self.driver.connect(Role.WORKER, dialect), self.model.now)
        worker.labels = () if dialect == Dialect.JSON else labels
        meta = schemas.HelloMeta()
        if name and dialect == Dialect.BINARY:
            worker.name = name
            worker.inst, worker.grace_s = (inst, grace_s) if inst else (b"", 0)
            meta = schemas.HelloMeta(name=name, inst=inst or None, grace=grace_s)
            self._sessions.greeted(worker)
        self._hello(worker, meta)
        self.register(id, capacity, ("*",) if dialect == Dialect.JSON else serves, held)

    def connect_stranger(self, id: int, role: Role) -> None:
        """A binary connection that says nothing at all."""
        role = Role(role)
        link = self.driver.connect(role)
        end: End = (Client if role == Role.CLIENT else Worker)(id, link, self.model.now)
        end.greeting_until = fires_at(self.model.now + self.model.limits.handshake_s)
        end.silent = True
        self.model.join(end)

    def register(self, id: int, capacity: int, serves: tuple[str, ...], held: Pairs = ()) -> None:
        """A worker says what it takes, for the first time or again."""
        model, worker = self.model, self.model.workers.get(id)
        if worker is None or worker.greeting_until is not None:
            return
        if worker.capacity:
            model.answer(worker, PacketType.REGISTER, NOT_ALLOWED)
        else:
            worker.capacity, worker.serves = capacity, serves
            worker.mask = sum(kind.bit for kind in model.kinds if kind.is_served_by(worker))
            model.answer(worker, PacketType.REGISTER, ONLY_OK, self._sessions.registered(worker, held))
            if model.draining or worker.draining:
                worker.draining = True
                model.expect(worker, PacketType.DRAIN)
        worker.heard_at = model.now
        if worker.is_json:
            self.driver.register(worker.link, capacity)
        else:
            meta = schemas.RegisterMeta(cap=capacity, serves=list(serves), held=list(held), labels=dict(worker.labels))
            self.driver.send(worker.link, packets.register(meta))

    def disconnect(self, id: int) -> None:
        """A connection breaks."""
        end = self.model.ends.get(id)
        if end is not None:
            self.model.lost(end.link, CloseReason.PEER_CLOSED)
            self.driver.disconnect(end.link)

    def congest(self, id: int) -> None:
        """A connection's outbox passes its mark."""
        end = self.model.ends.get(id)
        if end is not None and end.greeting_until is None:
            end.congested = True
            self.driver.congest(end.link)

    def unblock(self, id: int) -> None:
        """It has room again."""
        end = self.model.ends.get(id)
        if end is not None:
            end.congested = False
            end.heard_at = self.model.now
            self.driver.unblock(end.link)

    def silence(self, id: int) -> None:
        """A peer stops answering PING, or begins to again."""
        end = self.model.ends.get(id)
        if end is not None:
            end.silent = not end.silent

    def ping(self, id: int) -> None:
        """A peer asks whether anybody is there."""
        end = self.model.ends.get(id)
        if end is not None and not end.is_json and end.greeting_until is None:
            self.model.expect(end, PacketType.PONG)
            self.world.send(end, packets.ping(7))

    def drain_worker(self, id: int) -> None:
        """A worker wants no more jobs."""
        worker = self.model.workers.get(id)
        if worker is not None and not worker.is_json and worker.capacity:
            self.model.answer(worker, PacketType.DRAIN, ONLY_OK)
            worker.draining = True
            self.world.send(worker, packets.drain(3))

    def drain_named(self, id: int, name: str) -> None:
        """An operator, who is a client, wants a worker to get no more jobs."""
        client = self.model.clients.get(id)
        if client is None or client.is_json or client.greeting_until is not None:
            return
        # Workers are nobody's in particular; those of another principal are none to it.
        worker = self._sessions.connected.get(name) if not client.principal else None
        if worker is None:
            self.model.answer(client, PacketType.DRAIN, WORKER_NOT_FOUND)
        else:
            self.model.answer(client, PacketType.DRAIN, ONLY_OK)
            self.model.expect(worker, PacketType.DRAIN, self._check_drain(name))
            worker.draining = True
        self.world.send(client, packets.drain(4, name))

    @staticmethod
    def _check_drain(name: str) -> Check:
        def check(packet: Packet) -> None:
            require(schemas.drain_meta(packet.meta).worker == name, "a worker was told that another one is to drain")

        return check

    def stood_still(self, until: float, late_s: float) -> None:
        """The broker stands still: silence says nothing until then, and who has not said HELLO has that time yet."""
        self.lease_floor = until
        for end in self.model.ends.values():
            if end.greeting_until is not None and end.greeting_until <= until:
                end.greeting_until = fires_at(until + min(late_s, self.model.limits.handshake_s))

    # What is seen

    def _saw_ping(self, link: FakeLink, packet: Packet, _: bytes) -> None:
        end = self.model.by_link.get(link.number)
        if end is not None:
            require(self.model.waking, "a PING at no time")
            require(self.model.now - end.heard_at >= self.model.limits.heartbeat_s, "a PING without need")
            self.pings.append(link)

    def _saw_expiry(self, close: Close) -> None:
        end = self.model.by_link.get(close.link.number)
        require(end is not None and not end.congested, "a congested peer was expired")
        if end is not None:
            silent_s = self.model.now - max(end.heard_at, self.lease_floor)
            require(silent_s >= self.model.limits.lease_s, f"a peer was expired after {silent_s} s of silence")

    def _saw_handshake_timeout(self, close: Close) -> None:
        end = self.model.by_link.get(close.link.number)
        due = end.greeting_until if end is not None else None
        require(due is not None and due <= self.model.now, "a handshake was cut short")

    def answer_pings(self) -> None:
        """Time has passed: every peer that is not silent answers, and no lease is overdue."""
        model = self.model
        pinged, self.pings = self.pings, []
        for link in pinged:
            end = model.by_link.get(link.number)
            if end is not None and not end.silent:
                self.world.send(end, packets.pong(0))
        floor, silent_s_max = self.lease_floor, model.limits.lease_s + LATE_S
        for end in model.ends.values():
            if end.greeting_until:
                require(end.greeting_until > model.now - LATE_S, "a stranger lives on without HELLO")
            elif not (end.is_json or end.congested):
                heard_at = end.heard_at
                silent_s = model.now - (heard_at if heard_at > floor else floor)
                if silent_s >= silent_s_max:
                    require(False, f"a peer lives on after {silent_s} s of silence")

    # The quiet phase

    def calm(self) -> None:
        for end in list(self.model.ends.values()):
            end.silent = False
            if end.congested:
                self.unblock(end.id)

    def work(self) -> None:
        model = self.model
        for kind in model.kinds:
            if kind.queue and all(worker.draining for worker in model.candidates(kind)):
                self.connect_worker(-1 - self.world.steps, Dialect.BINARY, 4, ("*",), labels=kind.need)
        for worker in [worker for worker in model.workers.values() if worker.congested]:
            self.unblock(worker.id)

    # Choices

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        one_of, world = chooser.one_of, chooser.world

        def client() -> Operation | None:
            if len(world().model.clients) >= PEERS_MAX:
                return None
            dialect = one_of(DIALECTS)
            return "connect client", chooser.new_id(), dialect, one_of(("", "", "other")), chooser.chance(0.3)

        def worker() -> Operation | None:
            if len(world().model.workers) >= PEERS_MAX:
                return None
            dialect = one_of(DIALECTS)
            plain = "connect worker", chooser.new_id(), dialect, one_of(CAPACITIES), one_of(OFFERS)
            if dialect == Dialect.JSON or chooser.chance(0.3):
                return plain
            return (*plain, *session(chooser), one_of(LABELS))

        def congest() -> Operation | None:
            return chooser.about("congest", chooser.ends(lambda end: not end.congested))

        def drain() -> Operation | None:
            return chooser.about("drain worker", chooser.workers(lambda worker: worker.capacity > 0 and chooser.chance(0.1)))

        def drain_named() -> Operation | None:
            return chooser.about("drain named", chooser.clients(), one_of(NAMES)) if chooser.chance(0.2) else None

        return [
            (6, client),
            (8, worker),
            (
                1,
                lambda: (
                    None if chooser.chance(0.5) else ("connect stranger", chooser.new_id(), one_of((Role.CLIENT, Role.WORKER)))
                ),
            ),
            (2, lambda: chooser.about("disconnect", list(world().model.ends.values()))),
            (3, congest),
            (5, lambda: chooser.about("unblock", chooser.ends(lambda end: end.congested))),
            (1, lambda: chooser.about("silence", chooser.ends())),
            (1, lambda: chooser.about("ping", chooser.ends())),
            (1, drain),
            (1, drain_named),
        ]
