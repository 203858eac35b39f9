"""Reads of many frames: a client's requests, or a worker's reports, that arrive in one piece.

What must be seen: what would be if they had come one by one at that moment. All that is left to the end of a read is to go on with
what follows from it for others (children of what ended, credit for what was taken), and one ACK for all its RESULTs.

A worker's reports change nothing that a later one of the same read depends on, so that the model is told of all of them first, and
looks at what came of them then. What a client's RUN is answered depends on which slots the ones before it took. So the switchboard
is given the read first, and then the model is told of one request after the other, and looks at what came of each RUN before the next.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reasonchip_broker.errors import InternalError
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet, decode
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.protocol.frames import Frame
from reasonchip_broker.protocol.json_v0 import to_binary
from reasonchip_broker.routing.effects import Close
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.features.jobs import FAILURES, LEFT_MS, VARIABLES, Jobs
from reasonchip_broker.testing.simulation.features.outcomes import FIRSTS
from reasonchip_broker.testing.simulation.features.rules import more_options
from reasonchip_broker.testing.simulation.features.streams import PAYLOADS
from reasonchip_broker.testing.simulation.kept import SEVERAL, Known
from reasonchip_broker.testing.simulation.records import PIPELINES, End, Worker, check_number
from reasonchip_broker.testing.switchboard_driver import FakeLink, view

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

Operation = tuple[Any, ...]
Send = tuple[FakeLink, bytes]

ENTERS = ("run", "attach")
"""Requests after which their connection may follow a job: one of them for a job in a read."""

REPORTS = ("result", "progress", "park")
FRAMES_MAX = 12
_RUN, _REPLY = PacketType.RUN, PacketType.REPLY


class Reads(Feature):
    """Many operations of one connection in one read. Each is given without the connection."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._jobs = world.find(Jobs)
        self._sends: list[tuple[FakeLink, bytes]] = []
        """What came of a read, as far as the model has not looked at it."""
        self._answers: dict[bytes, list[tuple[Send, Packet]]] = {}
        """The RUNs and REPLYs among that, by their jobs."""
        self._closes: list[Close] = []
        self._next: Frame | None = None
        """The frame that the model is told of now."""

    def operations(self) -> dict[str, Callable[..., None]]:
        return {"requests": self.requests, "reports": self.reports}

    # A worker's

    def reports(self, id: int, operations: Sequence[Operation]) -> None:
        """A worker's RESULTs, PROGRESS and PARKs arrive together."""
        worker = self.world.speaker(id)
        if not isinstance(worker, Worker) or worker.is_json:
            return
        frames: list[Frame] = []
        before = worker.reports
        self.world.take = lambda _, frame: frames.append(frame)
        for name, cookie, *arguments in operations:
            job = self.model.jobs.get(cookie)
            # Of a job that waits nobody could tell whether the read's own RESULTs had made room for it before.
            waits = job is not None and (job.hold is None or job.hold in worker.resuming)
            if name in REPORTS and not waits:
                self.world.operations[name](id, cookie, *arguments)
        self.world.take = None
        if worker.reports > before:
            self.model.expect(worker, PacketType.ACK, check_number(worker.reports))
        if frames:
            self.driver.deliver(worker.link, frames)

    # A client's

    def requests(self, id: int, operations: Sequence[Operation]) -> None:
        """A client's RUNs and what it asks about jobs, or those of a worker's handlers, arrive together."""
        end, world = self.world.speaker(id), self.world
        if end is None or end.is_json:
            return
        asked = self._that_can_be_told(end, operations)
        if not asked:
            return
        world.catch = self._caught
        self.driver.deliver(end.link, [frame for _, frame in asked])
        world.catch, world.take = None, self._told
        for (name, *arguments), frame in asked:
            self._next = frame
            world.operations[name](id, *arguments)
            if self._next is not None:
                raise InternalError(f"the model was not told of {name}")
        world.take = None
        world.account(self._sends, self._closes)

    def _caught(self, sends: list[tuple[FakeLink, bytes]], closes: list[Close]) -> None:
        self._sends, self._closes = sends, closes
        self._answers = {}
        for send in sends:
            packet = decode(to_binary(send[1], 1))
            if packet.kind == _RUN or packet.kind == _REPLY:
                self._answers.setdefault(packet.cookie, []).append((send, packet))

    def _that_can_be_told(self, end: End, operations: Sequence[Operation]) -> list[tuple[Operation, Frame]]:
        """Those operations that send something, and of which the model will know what comes of them, with what they send."""
        asked: list[tuple[Operation, Frame]] = []
        entered: set[bytes] = set()
        stopped: set[bytes] = set()
        may_evict = False
        for operation in operations:
            name, subject, *_ = operation
            if name == "ack":
                # What it spends may be at the expense of older marks.
                may_evict = may_evict or self.model.limits.spent_max < SEVERAL
            else:
                known = self.model.known(subject)[0]
                is_over = known is not Known.NOT and subject not in self.model.jobs
                # Whatever ends a job, or sends its outcome, may be at the expense of an older one.
                if known is Known.PERHAPS or ((is_over or subject in stopped) and may_evict):
                    continue
                if name in ENTERS:
                    if subject in entered or subject in stopped:
                        continue
                    entered.add(subject)
                if name == "cancel":
                    stopped.add(subject)
                may_evict = may_evict or name == "cancel" or (is_over and name in ENTERS)
            frame = self._frame_of(end, operation)
            if frame is not None:
                asked.append((operation, view(frame)))
        return asked

    def _frame_of(self, end: End, operation: Operation) -> bytes | None:
        name, subject, *arguments = operation
        if name == "run":
            return self._jobs.frame_of(subject, *arguments)
        if name == "cancel":
            return packets.cancel(subject, at_once=bool(arguments and arguments[0]), number=7)
        if name == "ack":
            # One that lies about what is to come in the same read may be telling the truth by then.
            total = len(end.results) - subject
            return packets.ack(total) if 0 <= total <= len(end.results) else None
        if name == "status":
            return packets.status(subject, tree=bool(arguments and arguments[0]), number=13)
        if name == "attach":
            first = arguments[0] if arguments else 0
            return packets.attach(subject, first=first, take=len(arguments) < 2 or arguments[1], number=11)
        return None

    def _told(self, end: End, frame: Frame) -> None:
        """The model was told of a request, and would see now what comes of it."""
        if frame != self._next:
            raise InternalError("the model was told of another request than was sent")
        self._next = None
        if frame[0] == _RUN:
            self._look_at_run(end, frame[1])

    def _look_at_run(self, end: End, cookie: bytes) -> None:
        """A job that came gets its slot and its answer before the next frame is read."""
        model, step = self.model, self.model.step
        answer = next((owed for owed in step.answers if owed[0] is end.link and owed[1] == _RUN), None)
        left: list[tuple[Send, Packet]] = []
        for send, packet in self._answers.get(cookie, ()):
            link, raw = send
            if packet.kind == _RUN:
                model.seen[_RUN](link, packet, raw)
                self._sends.remove(send)
            elif (
                link is end.link
                and answer is not None
                and packet.code in answer[2]
                and schemas.reply_meta(packet.meta).to == _RUN
            ):
                model.seen[_REPLY](link, packet, raw)
                self._sends.remove(send)
                answer = None
            else:
                left.append((send, packet))
        self._answers[cookie] = left
        if answer is not None and step.may_be_unanswered:
            step.answers.remove(answer)
        step.arrived = step.doubtful = None
        step.may_be_unanswered = False

    # The quiet phase

    def calm(self) -> None:
        """What became of all jobs that are over is asked, once for each principal: who is told the truth of one, and who of none?"""
        askers = {client.principal: client for client in self.model.clients.values() if not client.is_json}
        for client in askers.values():
            self.requests(client.id, [("status", cookie) for cookie in self.model.outcomes.cookies()])

    # Choices

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        def ack_in_the_middle() -> Operation | None:
            """Where several outcomes went into one pack, this ends within it."""
            ends = [end for end in chooser.clients() if len(end.results) - end.acknowledged > 3]
            end = chooser.one_of(ends) if ends else None
            return ("ack", end.id, chooser.one_of((1, 2, 3))) if end is not None else None

        return [(4, lambda: some_requests(chooser)), (7, lambda: some_reports(chooser)), (4, ack_in_the_middle)]


def some_requests(chooser: Chooser) -> Operation | None:
    """Mostly RUNs that have the same options, and between them, or not, whatever a client asks."""
    chance, one_of = chooser.chance, chooser.one_of
    ends: Sequence[End] = chooser.clients() if chance(0.93) else chooser.workers()
    ends = [end for end in ends if not end.is_json]
    if not ends:
        return None
    end = one_of(ends)
    plain = one_of(PIPELINES[:3]), False, True, False, chance(0.1)
    choices: list[Callable[[], Operation]] = [lambda: ("run", chooser.new_cookie(), *plain)] * 12
    if chance(0.4):
        choices += [choose for weight, choose in _requests(chooser, end) for _ in range(weight)]
    # More RUNs than there may be jobs would be refused, and show nothing new.
    most = min(FRAMES_MAX, chooser.world().model.limits.client_jobs_max * 2 // 3)
    return "requests", end.id, tuple(one_of(choices)() for _ in range(1 + int(chooser.random() * most)))


def _requests(chooser: Chooser, end: End) -> list[tuple[int, Callable[[], Operation]]]:
    chance, one_of = chooser.chance, chooser.one_of

    def run() -> Operation:
        flags = chance(0.5), chance(0.8), chance(0.2), chance(0.1)
        cookie = chooser.cookie() if chance(0.1) else chooser.new_cookie()
        return "run", cookie, one_of(PIPELINES), *flags, one_of(LEFT_MS), one_of(VARIABLES), more_options(chooser, end)

    return [
        (2, run),
        (1, lambda: ("ack", chooser.back(end))),
        (1, lambda: ("attach", chooser.outcome(end), one_of(FIRSTS), chance(0.5))),
        (1, lambda: ("status", chooser.outcome(end), chance(0.3))),
        (1, lambda: ("cancel", chooser.cookie(), chance(0.3))),
    ]


def some_reports(chooser: Chooser) -> Operation | None:
    """RESULTs of most of what a worker holds, in any order, and between them, or not, whatever else it may say."""
    chance, one_of = chooser.chance, chooser.one_of
    workers = chooser.workers(lambda worker: len(worker.held) > 1 and not worker.is_json)
    if not workers:
        return None
    worker = one_of(workers)
    cookies = list(worker.held)
    if chance(0.5):
        cookies = [cookie for _, cookie in sorted((chooser.random(), cookie) for cookie in cookies)]
    if chance(0.7):
        return "reports", worker.id, tuple(("result", cookie) for cookie in cookies if chance(0.9))
    operations: list[Operation] = []
    for cookie in cookies:
        share = chooser.random()
        if share < 0.2:
            operations.append(("progress", cookie, one_of(PAYLOADS)))
        elif share < 0.26:
            operations.append(("park", cookie))
        if share < 0.75:
            operations.append(("result", cookie, one_of(FAILURES)) if chance(0.3) else ("result", cookie))
        elif share < 0.8:
            operations.append(("result", chooser.cookie(), Code.OK, one_of((None, 2))))
    return "reports", worker.id, tuple(operations)
