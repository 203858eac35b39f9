"""A switchboard without a network: pretended connections, a clock that obeys, and a check of every rule after each step.

The driver does what a broker does, at once and in memory. What is sent to a connection is kept for the test to `take`; a packet that
goes to a connection that is closed, or that was not welcomed, is an error of the switchboard's and raises InternalError at once, as
does any table that disagrees with another one. Nothing in here draws random numbers or looks at a clock, so a record of steps can
be replayed, and must give the same trace.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeAlias
from uuid import UUID

from reasonchip_broker.errors import InternalError
from reasonchip_broker.limits import FRAME_BYTES_SETTABLE, Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import ENCODING_JSON, CloseReason, Code, Dialect, PacketType, Role
from reasonchip_broker.protocol.frames import HEADER, OVERSIZED, Frame
from reasonchip_broker.protocol.json_v0 import JsonDecoder, is_json, to_binary, to_json
from reasonchip_broker.routing.effects import Close, Effects, LogLine, Outcome
from reasonchip_broker.scheduling import Scheduling
from reasonchip_broker.switchboard import Switchboard
from reasonchip_broker.testing.fake_link import FakeLink as FakeLink
from reasonchip_broker.testing.virtual_clock import VirtualClock

Step: TypeAlias = tuple[str, int, tuple[Any, ...], float]
"""One call of the switchboard: method, number of the link (-1 for none), further arguments, time."""

INSTANCE = b"driven by a test"
NO_LINK = -1
_TO_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
JSON_KEYS = ("packet_type", "cookie", "capacity", "pipeline", "variables", "detach", "rc", "error", "stacktrace", "result")


def view(frame: bytes) -> Frame:
    """What a decoder returns for a whole frame of the binary protocol."""
    _, kind, code, attempt, cookie, number, meta_length = HEADER.unpack_from(frame)
    return kind, cookie, frame, code, attempt, number, meta_length


def oversized(kind: PacketType, cookie: bytes, attempt: int = 1) -> Frame:
    """What a decoder returns for a frame over the limit: all that there is of it is its header."""
    head = HEADER.pack(FRAME_BYTES_SETTABLE, kind, 0, attempt, cookie, 0, 0)
    return kind + OVERSIZED, cookie, head, 0, attempt, 0, 0


def json_packet(packet_type: str, cookie: bytes | None = None, **fields: Any) -> bytes:
    """A JSON packet as existing peers write it: ten keys in their order, null where unused, no white space; without its length."""
    packet: dict[str, Any] = {**dict.fromkeys(JSON_KEYS), "packet_type": packet_type, **fields}
    packet["cookie"] = str(UUID(bytes=cookie)) if cookie is not None else None
    return _TO_JSON(packet).encode()


def _kind_of(frame: bytes) -> int:
    return to_binary(frame, 1)[4]


class SwitchboardDriver:
    """A switchboard, its connections and its clock.

    `checks` is whether invariants are checked after every step (they cost time in proportion to all there is); `records` whether steps
    and their effects are kept for `replay`. The other settings are the switchboard's own.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        json_slot_rest_ms: int | None = None,
        json_cancel: bool = False,
        admits: bool = False,
        scheduling: Scheduling | None = None,
        checks: bool = True,
        records: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self.clock = VirtualClock()
        self.checks = checks
        self.links: list[FakeLink] = []
        self.admissions: list[tuple[bytes, int]] = []
        """Cookies that wait for `admit` or `reject`, in order, and the number of each one's admission."""
        self.outcomes: list[Outcome] = []
        self.capacity: list[tuple[str, ...]] = []
        self.logs: list[LogLine] = []
        self.on_step: Callable[[list[tuple[FakeLink, bytes]], list[Close]], None] | None = None
        """Called after each step with what it sent and whom it closed, in order."""
        self.steps: list[Step] | None = [] if records else None
        self._settings: dict[str, Any] = {
            "json_slot_rest_ms": json_slot_rest_ms,
            "json_cancel": json_cancel,
            "admits": admits,
            "scheduling": scheduling,
        }
        self._first_settings = self._settings
        self._log_routes = False
        self.switchboard = self._begin(INSTANCE)
        self._cookies = 0
        self._trace = hashlib.sha256()

    def _begin(self, instance: bytes) -> Switchboard:
        switchboard = Switchboard(instance, self.limits, version="0", **self._settings)
        switchboard.effects.log_routes = self._log_routes
        return switchboard

    # Connections

    def connect(
        self, role: Role, dialect: Dialect = Dialect.BINARY, *, principal: str = "", queues: bool | None = None
    ) -> FakeLink:
        """A connection that has shown its dialect and said nothing yet. RUNs of JSON ones do not wait, unless `queues` says so."""
        link = FakeLink(len(self.links), role, dialect)
        self.links.append(link)
        self._step("connected", link, role, dialect, principal, dialect == Dialect.BINARY if queues is None else queues)
        return link

    def greet(self, link: FakeLink, hello: schemas.HelloMeta | None = None) -> schemas.WelcomeMeta:
        """Say HELLO, and return what WELCOME says. Raises InternalError if no WELCOME comes."""
        self.send(link, packets.hello(hello or schemas.HelloMeta()))
        return schemas.welcome_meta(link.take_one(PacketType.WELCOME).meta)

    def client(self, dialect: Dialect = Dialect.BINARY, *, principal: str = "", queues: bool | None = None) -> FakeLink:
        """A client that may send RUNs."""
        link = self.connect(Role.CLIENT, dialect, principal=principal, queues=queues)
        if dialect == Dialect.BINARY:
            self.greet(link)
        return link

    def worker(
        self,
        capacity: int = 1,
        serves: Sequence[str] = ("*",),
        dialect: Dialect = Dialect.BINARY,
        *,
        name: str | None = None,
        process: bytes | None = None,
        grace_s: int = 0,
        held: Sequence[tuple[bytes, int]] = (),
        labels: Mapping[str, str] | None = None,
        principal: str = "",
    ) -> FakeLink:
        """A registered worker; jobs that waited for it are left for `take`. Raises InternalError if it is refused.

        One with a name, a process (16 bytes) and a grace has a session; coming back, it lists what it holds. What of that it keeps is
        then in `kept` of its link.
        """
        link = self.connect(Role.WORKER, dialect, principal=principal)
        if dialect == Dialect.BINARY:
            self.greet(link, schemas.HelloMeta(name=name, inst=process, grace=grace_s))
        self.register(link, capacity, serves, held=held, labels=labels)
        answer = decode(link.unread.pop(0))
        if (answer.kind, answer.code) != (PacketType.REPLY, Code.OK):
            raise InternalError(f"a worker that registered was answered with packet {answer.kind}, code {answer.code}")
        link.kept = schemas.reply_meta(answer.meta).held
        return link

    def disconnect(self, link: FakeLink, reason: CloseReason = CloseReason.PEER_CLOSED) -> None:
        """The connection breaks, from the other end."""
        link.closed = True
        self._step("disconnected", link, reason)

    def congest(self, link: FakeLink) -> None:
        """The connection's outbox passes its mark."""
        self._step("congested", link)

    def unblock(self, link: FakeLink) -> None:
        """The connection's outbox has room again."""
        link.wants_writable = False
        self._step("writable", link)

    # What peers send

    def send(self, link: FakeLink, *frames: bytes) -> None:
        """Whole frames of the binary protocol arrive, in one piece."""
        self.deliver(link, [view(frame) for frame in frames])

    def send_json(self, link: FakeLink, *bodies: bytes) -> None:
        """JSON objects arrive, in one piece, through the decoder. Raises ValueError if that ends the stream at one of them."""
        decoder = JsonDecoder(self.limits.frame_bytes_max, link.role)
        frames = decoder.feed(b"".join(len(body).to_bytes(4, "big") + body for body in bodies))
        if decoder.failure is not None:
            raise ValueError(f"no frame: {decoder.failure}")
        self.deliver(link, frames)

    def deliver(self, link: FakeLink, frames: list[Frame]) -> None:
        """What a decoder returned arrives."""
        self._step("received", link, frames)

    def offend(self, link: FakeLink, reason: CloseReason, sentence: str) -> None:
        """What is no frame arrives."""
        self._step("offended", link, reason, sentence)

    def new_cookie(self) -> bytes:
        """A cookie that no job had yet."""
        self._cookies += 1
        return b"cookie%10d" % self._cookies

    def run(
        self,
        link: FakeLink,
        pipeline: str = "p",
        *,
        cookie: bytes | None = None,
        variables: bytes = b"1",
        encoding: str = ENCODING_JSON,
        left_ms: int = 0,
        attempt: int = 1,
        queue: bool = True,
        reply: bool = False,
        detach: bool = False,
        **options: Any,
    ) -> bytes:
        """A client, or a worker for a job that it holds, sends RUN; returns the job's cookie. `options` are those of `RunOptions`.

        A JSON client can say no more than pipeline, variables and `detach`.
        """
        cookie = cookie or self.new_cookie()
        if link.dialect == Dialect.JSON:
            body = json_packet("RUN", cookie, pipeline=pipeline, variables=variables.decode() or None, detach=detach)
            self.send_json(link, body)
        else:
            meta = schemas.RunOptions(p=pipeline, enc=encoding, queue=queue, reply=reply, detach=detach, **options)
            self.send(link, packets.run(cookie, schemas.encode_meta(meta), variables, attempt=attempt, left_ms=left_ms))
        return cookie

    def register(
        self,
        link: FakeLink,
        capacity: int,
        serves: Iterable[str] = ("*",),
        number: int = 1,
        held: Sequence[tuple[bytes, int]] = (),
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """A worker sends REGISTER. A JSON worker can say no more than its capacity."""
        if link.dialect == Dialect.JSON:
            self.send_json(link, json_packet("REGISTER", capacity=capacity))
        else:
            meta = schemas.RegisterMeta(cap=capacity, serves=list(serves), held=list(held), labels=dict(labels or {}))
            self.send(link, packets.register(meta, number))

    def result(self, link: FakeLink, cookie: bytes, payload: bytes = b"2", attempt: int = 1) -> None:
        """A worker sends RESULT OK. A JSON worker's says no attempt."""
        if link.dialect == Dialect.JSON:
            self.send_json(link, json_packet("RESULT", cookie, rc="OK", result=payload.decode() or None))
        else:
            self.send(link, packets.result(cookie, attempt, payload, ENCODING_JSON))

    def fail(
        self, link: FakeLink, cookie: bytes, code: Code, error: str = "", attempt: int = 1, *, error_type: str = ""
    ) -> None:
        """A worker sends RESULT with another code."""
        if link.dialect == Dialect.JSON:
            self.send_json(link, json_packet("RESULT", cookie, rc=code.name, error=error))
        else:
            self.send(link, packets.failed(cookie, attempt, code, error, error_type=error_type))

    def cancel(self, link: FakeLink, cookie: bytes, *, at_once: bool = False, why: str = "", number: int = 7) -> None:
        """A client sends CANCEL. A JSON client can say no more than the cookie."""
        if link.dialect == Dialect.JSON:
            self.send_json(link, json_packet("CANCEL", cookie))
        else:
            self.send(link, packets.cancel(cookie, at_once=at_once, why=why, number=number))

    def ack(self, link: FakeLink, results: int) -> None:
        """A client sends ACK: so many RESULTs have come in all."""
        self.send(link, packets.ack(results))

    def attach(self, link: FakeLink, cookie: bytes, *, first: int = 0, take: bool = True, number: int = 8) -> None:
        """A client sends ATTACH."""
        self.send(link, packets.attach(cookie, first=first, take=take, number=number))

    def status(self, link: FakeLink, cookie: bytes, *, tree: bool = False) -> schemas.JobStatus:
        """A client sends STATUS; returns the answer. Raises InternalError if it is a refusal, or not all that came."""
        self.send(link, packets.status(cookie, tree=tree, number=9))
        return link.take_status()

    def progress(
        self,
        link: FakeLink,
        cookie: bytes,
        *numbers: int,
        attempt: int = 1,
        payload: bytes = b"3",
        encoding: str = ENCODING_JSON,
    ) -> None:
        """A worker sends PROGRESS with these numbers, in one piece."""
        self.send(link, *(packets.progress(cookie, attempt, number, payload, encoding) for number in numbers))

    def input(self, link: FakeLink, cookie: bytes, *numbers: int, payload: bytes = b"4", encoding: str = ENCODING_JSON) -> None:
        """A client sends INPUT with these numbers, in one piece."""
        self.send(link, *(packets.input_chunk(cookie, number, payload, encoding) for number in numbers))

    def credit(self, link: FakeLink, cookie: bytes, frames: int, attempt: int = 0) -> None:
        """CREDIT from a client (for PROGRESS) or, with the attempt, from a worker (for INPUT)."""
        self.send(link, packets.credit(cookie, attempt, frames))

    def park(self, link: FakeLink, cookie: bytes, attempt: int = 1) -> None:
        """A worker lends a job's slot out."""
        self.send(link, packets.park(cookie, attempt))

    def resume(self, link: FakeLink, cookie: bytes, attempt: int = 1) -> None:
        """A worker wants a slot for a job again."""
        self.send(link, packets.resume(cookie, attempt))

    def extend(self, link: FakeLink, cookie: bytes, more_ms: int, attempt: int = 1) -> None:
        """A worker asks for more time."""
        self.send(link, packets.extend(cookie, attempt, more_ms))

    def drain_worker(self, link: FakeLink, name: str = "", number: int = 10) -> None:
        """A client, for an operator, drains the worker of a name; a worker, without one, itself."""
        self.send(link, packets.drain(number, name))

    # What the broker says

    def admit(self, cookie: bytes, number: int = 0) -> None:
        """The job with this cookie is admitted; `number` is that of its admission, by default of the cookie's last."""
        self._step("admitted", None, cookie, number or self._last_admission(cookie))

    def reject(self, cookie: bytes, code: Code = Code.NOT_ALLOWED, sentence: str = "no", number: int = 0) -> None:
        """The job with this cookie is refused; `number` as for `admit`."""
        self._step("rejected", None, cookie, number or self._last_admission(cookie), code, sentence)

    def _last_admission(self, cookie: bytes) -> int:
        return max((number for asked, number in self.admissions if asked == cookie), default=0)

    def configure(self, scheduling: Scheduling) -> None:
        """The operator decides otherwise."""
        self._step("configure", None, scheduling)

    def drain(self) -> None:
        """The broker drains."""
        self._step("drain", None)

    def stop(self) -> None:
        """The broker stops."""
        self._step("stop", None)

    def restart(self, instance: bytes) -> None:
        """The broker dies, and another one begins, which knows nothing of it: every connection is gone."""
        for link in self.links:
            link.closed = True
        self.admissions.clear()
        self._step("restart", None, instance)

    def advance(self, seconds: float) -> None:
        """Time passes, and the switchboard is woken whenever it wants to be. Raises InternalError if it wants that for ever."""
        target = self.clock.now + seconds
        timers = self.switchboard.timers
        while timers.wake_at <= target:
            self.clock.advance_to(max(self.clock.now, timers.wake_at))
            left = len(timers)
            self._step("wake", None)
            # Of very many timers not all fire at once.
            if timers.wake_at <= self.clock.now and len(timers) >= left:
                raise InternalError(f"woken at {self.clock.now}, the switchboard wants to be woken at {timers.wake_at}")
        self.clock.advance_to(target)

    def jump(self, seconds: float) -> None:
        """Time passes while the broker stands still; then it is woken, once, if it wanted to be."""
        self.clock.advance(seconds)
        if self.switchboard.timers.wake_at <= self.clock.now:
            self._step("wake", None)

    # One step

    def _step(self, method: str, link: FakeLink | None, *arguments: Any) -> None:
        self.apply((method, NO_LINK if link is None else link.number, arguments, self.clock.now))

    def apply(self, step: Step) -> None:
        """Call the switchboard, carry out what it asks for, check the rules. Raises InternalError if one is broken."""
        if self.steps is not None:
            self.steps.append(step)
        method, number, arguments, now = step
        if method == "configure":
            # What holds for a broker that begins anew, too.
            self._settings = {**self._settings, "scheduling": arguments[0]}
        if method == "restart":
            self.switchboard = self._begin(*arguments)
        elif number == NO_LINK:
            getattr(self.switchboard, method)(*arguments, now)
        elif method == "connected":
            link = self.links[number]
            role, dialect, principal, queues = arguments
            link.peer = self.switchboard.connected(link, link.id, role, dialect, now, principal=principal, queues=queues)
        else:
            getattr(self.switchboard, method)(self.links[number].peer, *arguments, now)
        self._carry_out()

    def _carry_out(self) -> None:
        effects = self.switchboard.effects
        sends = effects.take_sends() if effects.recipients else []
        closes: list[Close] = []
        for link, frame in sends:
            self._send(link, frame)
        if effects.rare:
            closes = effects.closes[:]
            self._carry_out_rare(effects)
            for close in closes:
                self._close(close)
        if self.steps is not None:
            self._trace_effects(sends, closes)
        if self.checks:
            self.switchboard.invariants()
        if self.on_step is not None:
            self.on_step(sends, closes)

    def _carry_out_rare(self, effects: Effects) -> None:
        for link in effects.writables:
            link.wants_writable = True
        self.admissions += effects.admissions
        self.outcomes += effects.outcomes
        self.capacity += effects.capacity
        self.logs += effects.logs
        effects.clear_rare()

    def _send(self, link: FakeLink | None, frame: bytes) -> None:
        if link is None:
            raise InternalError(f"packet {_kind_of(frame)} was sent to a connection that has ended")
        if link.closed:
            raise InternalError(f"packet {_kind_of(frame)} was sent to link {link.number}, which is closed")
        if not link.welcomed and (frame[4] != PacketType.WELCOME or link not in self.switchboard.effects.welcomes):
            raise InternalError(f"packet {_kind_of(frame)} was sent to link {link.number}, which was not welcomed")
        if link.dialect == Dialect.BINARY:
            if is_json(frame):
                raise InternalError(f"a JSON frame was sent to link {link.number}, which speaks binary")
        elif not to_json(frame) and frame[4] != PacketType.REPLY:
            raise InternalError(f"packet {frame[4]} was sent to link {link.number}, whose protocol does not know it")
        link.welcomed = True
        link.unread.append(frame)

    def _close(self, close: Close) -> None:
        if close.link.closed:
            raise InternalError(f"link {close.link.number} was closed twice")
        close.link.closed = True
        close.link.close = close
        # The connection's end is reported later, when there is nothing left to do about it.
        self.switchboard.disconnected(close.link.peer, close.reason, self.clock.now)
        if self.switchboard.effects.recipients or self.switchboard.effects.rare:
            raise InternalError(f"the end of link {close.link.number}, which the switchboard had closed, had effects")

    # Replay

    @property
    def trace(self) -> str:
        """A hash of every effect so far, if `records`."""
        return self._trace.hexdigest()

    def _trace_effects(self, sends: list[tuple[FakeLink, bytes]], closes: list[Close]) -> None:
        # What goes to two connections in one step has no order.
        sent = sorted(((link.number, frame) for link, frame in sends), key=itemgetter(0))
        closed = [(close.link.number, close.reason, close.sentence) for close in closes]
        self._trace.update(repr((sent, closed, self.switchboard.timers.wake_at)).encode())

    def replay(self, *, log_routes: bool = False) -> str:
        """Take the recorded steps again with a new switchboard; return its trace, which must be the same. Needs `records`.

        With `log_routes` each frame goes to its handler, as it does when routes are logged: no job is plain (`routing/plain.py`).
        """
        again = SwitchboardDriver(self.limits, checks=False, records=True, **self._first_settings)
        again._log_routes = again.switchboard.effects.log_routes = log_routes
        for step in self.steps or ():
            method, number, arguments, _ = step
            if method == "connected":
                again.links.append(FakeLink(number, arguments[0], arguments[1]))
            elif method == "disconnected":
                again.links[number].closed = True
            again.clock.advance_to(step[3])
            again.apply(step)
        return again.trace
