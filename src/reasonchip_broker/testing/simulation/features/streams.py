"""Progress out of a running job and input into it: numbered, in order, within credit.

What must be seen: each follower gets one growing sequence of the chunks that were sent, none silently missing; what it misses is told,
and only chunks that the broker may have dropped; nobody is sent more than there is credit for, and everything that there is credit for;
all that is left comes before the RESULT and nothing after it; senders are credited what was taken, no more and no less; what is sent
beyond that, in chunks or in bytes, is missing or refused, and nothing else is for its sake.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.testing.simulation.chooser import Chooser
from reasonchip_broker.testing.simulation.feature import Feature
from reasonchip_broker.testing.simulation.records import BrokenPromise, End, Follow, Hold, Job, Kept, Worker, require
from reasonchip_broker.testing.simulation.rings import Held
from reasonchip_broker.testing.switchboard_driver import FakeLink

if TYPE_CHECKING:
    from reasonchip_broker.testing.simulation.world import World

NOT_FOUND, NOT_ALLOWED = frozenset({Code.COOKIE_NOT_FOUND}), frozenset({Code.NOT_ALLOWED})
BAD_PACKET, OVERLOADED = frozenset({Code.BAD_PACKET}), frozenset({Code.OVERLOADED})
PAYLOADS = (b"c", b"chunk", b"0" * 40, b"1" * 120)
"""Two of the third are within a window, three are not; the last is over it, and goes alone."""

ENCODING = "text"
GAP_BYTES = 60
"""What is kept in the place of a chunk that is missing is not larger."""

ANY_RINGS_BYTES = 100_000
"""All rings of a world together never have so much."""

Operation = tuple[object, ...]


class Stream:
    """The progress and input of one job. Numbers are the job's, from 1."""

    __slots__ = (
        "after_break",
        "base",
        "chunks",
        "credited",
        "floor",
        "flushed",
        "held",
        "input_credit",
        "input_held",
        "input_next",
        "input_sent",
        "inputs",
        "owed",
        "sizes",
        "taken",
        "touched",
    )

    def __init__(self, limits: Limits) -> None:
        self.chunks: list[tuple[int, bytes] | None] = []
        """Attempt and payload of each chunk of progress; None for one that is known to be missing."""
        self.sizes: list[int] = []
        """How many bytes of payload each had, also of those that are missing."""
        self.held = Held(limits)
        """Which chunks the broker must still have."""
        self.taken = 0
        """Up to which number nobody held its worker back, at the end of the last step."""
        self.base = 0
        """The last number of earlier attempts."""
        self.credited = self.floor = 0
        """Up to which number the worker has credit again; `floor` is what it should be."""
        self.after_break = False
        self.inputs: list[bytes] = []
        self.input_held = Held(limits)
        self.input_next = 1
        """The number that the worker of this attempt is to be sent next."""
        self.input_credit = limits.credit_frames
        self.input_sent = 0
        """The highest number that any attempt was sent."""
        self.owed: list[tuple[int, End]] = []
        """Number and sender of those that are not credited yet."""
        self.touched = False
        self.flushed = False
        """Whether all that there was is sent in this step, whatever the credit."""

    @property
    def last(self) -> int:
        """The number of the latest chunk of progress."""
        return len(self.chunks)

    def put(self, size: int, *chunks: tuple[int, bytes] | None) -> None:
        """The next chunks of progress."""
        self.chunks += chunks
        self.sizes += [size] * len(chunks)


class Streams(Feature):
    """What is in the streams of all jobs, and how far everybody has come in them."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        model = self.model
        self.dropped = 0
        """PROGRESS that counts for nothing."""
        self._touched: list[Job] = []
        self._credits: list[tuple[Job, End, int]] = []
        self._repeats: list[tuple[End, bytes]] = []
        """Input that came before, from whom and of which job: it is to be credited."""
        model.seen[PacketType.PROGRESS] = self._saw_progress
        model.seen[PacketType.INPUT] = self._saw_input
        model.seen[PacketType.CREDIT] = self._saw_credit
        model.on_result.append(self._before_result)
        model.on_settle.append(self._settle)

    def operations(self) -> dict[str, Callable[..., None]]:
        return {"progress": self.progress, "input": self.input, "credit": self.credit, "take input": self.take_input}

    def restarted(self) -> None:
        self.dropped, self._touched, self._repeats, self._credits = 0, [], [], []

    def of(self, job: Job) -> Stream:
        """The stream of a job; made if it has none."""
        if job.streams is None:
            job.streams = Stream(self.model.limits)
        stream: Stream = job.streams
        return stream

    def touch(self, job: Job) -> Stream:
        """Something was taken or sent: at the end of the step credit must be right."""
        stream = self.of(job)
        if not stream.touched:
            stream.touched = True
            self._touched.append(job)
        return stream

    def _fits(self, under_way: list[int], payload: bytes) -> bool:
        """Whether one more chunk may be sent, beside those of so many bytes that are not credited yet."""
        limits = self.model.limits
        fits = len(under_way) < limits.credit_frames and sum(under_way) + len(payload) <= limits.credit_bytes_max
        return not under_way or fits

    # Progress

    def progress(
        self,
        id: int,
        cookie: bytes,
        payload: bytes,
        wrong: int = 0,
        attempt: int | None = None,
        beyond: bool = False,
        count: int = 1,
    ) -> None:
        """A worker sends PROGRESS: the next chunks, or some whose number or attempt is wrong. Only with `beyond` without credit."""
        for _ in range(count):
            self._progress(id, cookie, payload, wrong, attempt, beyond)

    def _progress(self, id: int, cookie: bytes, payload: bytes, wrong: int, attempt: int | None, beyond: bool) -> None:
        worker = self.model.workers.get(id)
        if worker is None or worker.is_json or worker.greeting_until is not None:
            return
        hold = worker.held.get(cookie)
        job = hold.job if hold is not None else None
        if hold is None or job is None or (attempt is not None and attempt != hold.attempt):
            self.dropped += 1
            self.world.send(worker, packets.progress(cookie, attempt or 1, 1 + wrong, payload, ENCODING))
            return
        stream = self.of(job)
        if not (beyond or self._fits(stream.sizes[stream.credited :], payload)):
            return
        self._send_chunk(worker, job, hold, payload, wrong)

    def _send_chunk(self, worker: Worker, job: Job, hold: Hold, payload: bytes, wrong: int) -> None:
        stream = self.of(job)
        number = stream.last - stream.base + 1 + wrong
        frame = packets.progress(job.cookie, hold.attempt, number, payload, ENCODING)
        missing = wrong if wrong > 0 and stream.after_break else 0
        if number < 1 or (wrong and not missing):
            self.dropped += 1
            self.world.send(worker, frame)
            return
        stream.after_break = False
        if missing:
            # What is left of before the break is sent at once: the ring begins anew.
            stream.flushed = True
            stream.put(0, *[None] * missing)
            # They were sent before the break, and credit has begun anew since.
            stream.credited = stream.floor = stream.last
            stream.held.drop(missing)
        if self._fits(stream.sizes[stream.credited :], payload):
            stream.put(len(payload), (hold.attempt, payload))
        else:
            self.dropped += 1
            stream.put(len(payload), None)
        taken = max(stream.taken, stream.credited, self._taken(job, stream, stream.last - 1))
        stream.held.append(max(len(frame), GAP_BYTES), taken, crowded=self._is_crowded(len(frame)))
        self.touch(job)
        self.world.send(worker, frame)

    @staticmethod
    def _taken(job: Job, stream: Stream, last: int) -> int:
        """How far who holds the worker back has come; nobody does if the owner has gone, or wants no progress."""
        primary = job.followers.get(job.owner.id) if job.owner is not None else None
        return primary.next - 1 if primary is not None and primary.next else last

    def _is_crowded(self, size: int) -> bool:
        """Whether all rings may have too much with so many bytes more; what there is of jobs that are over may be gone then."""
        model = self.model
        if model.limits.rings_bytes_max > ANY_RINGS_BYTES:
            return False
        over = [job.streams for job in model.outcomes.over() if job.streams is not None]
        streams = [job.streams for job in model.jobs.values() if job.streams is not None] + over
        total = size + sum(stream.held.bytes_max + stream.input_held.bytes_max for stream in streams)
        if total <= model.limits.rings_bytes_max:
            return False
        for stream in over:
            stream.held.drop()
        return True

    def _saw_progress(self, link: FakeLink, packet: Packet, _: bytes) -> None:
        end = self.model.by_link.get(link.number)
        if end is None:
            return
        job, step = self.model.jobs.get(packet.cookie), self.model.step
        # Of a job that is over in this very step all that is left comes now, whatever the credit.
        at_end = job is None
        if job is None:
            kept = step.outcomes.get((link.number, packet.cookie))
            job = kept.job if kept is not None else step.ended.get(packet.cookie)
        follow = job.followers.get(end.id) if job is not None else None
        if job is None or follow is None or not follow.next:
            raise BrokenPromise(f"PROGRESS of {packet.cookie!r} to one who has not asked for it, or after its RESULT")
        stream = self.touch(job)
        first = schemas.chunk_meta(packet.meta).first if packet.code == Code.GAP else packet.number
        if first != follow.next or not first <= packet.number <= stream.last:
            raise BrokenPromise(f"PROGRESS {first} to {packet.number} of {packet.cookie!r}, after {follow.next - 1}")
        if packet.code == Code.GAP:
            self._check_gap(job, stream, follow, packet.number)
        elif stream.chunks[packet.number - 1] != (packet.attempt, packet.payload):
            raise BrokenPromise(f"chunk {packet.number} of {packet.cookie!r} is not what was sent")
        if follow.credit <= 0 and not at_end and not stream.flushed:
            raise BrokenPromise(f"chunk {packet.number} of {packet.cookie!r} without credit")
        follow.credit = max(0, follow.credit - 1)
        follow.next = packet.number + 1

    def _check_gap(self, job: Job, stream: Stream, follow: Follow, last: int) -> None:
        """Only what is no longer there is missing, and nothing for the owner's connection that could have had it."""
        for number in range(follow.next, last + 1):
            if stream.chunks[number - 1] is not None and number >= stream.held.lowest:
                raise BrokenPromise(f"a gap where chunk {number} of {job.cookie!r} must still be there")

    def _before_result(self, link: FakeLink, kept: Kept, packet: Packet) -> None:
        """All that is left comes before the RESULT."""
        stream = kept.job.streams
        end = self.model.by_link.get(link.number)
        if stream is not None and end is not None:
            follow = kept.job.followers.pop(end.id, None)
            if follow is not None and follow.next and follow.next <= stream.last:
                raise BrokenPromise(f"the RESULT of {kept.job.cookie!r} came before chunk {follow.next} of {stream.last}")

    # Who follows

    def followed(self, job: Job, follow: Follow) -> None:
        """A connection has come, or stands elsewhere now."""
        if follow.next > 1:
            follow.next = min(follow.next, job.streams.last + 1) if job.streams is not None and job.streams.last else 1
        self.touch(job)

    def fetched(self, job: Job, end: End, first: int) -> None:
        """A connection fetches an outcome, and such progress as is kept."""
        follow = job.followers[end.id] = Follow(end, first, 0)
        if job.streams is not None and first:
            follow.next = min(first, job.streams.last + 1)

    def credit(self, id: int, cookie: bytes, frames: int) -> None:
        """A follower has taken some chunks, or says so."""
        end = self.world.speaker(id)
        if end is None or end.is_json:
            return
        job = self.model.jobs.get(cookie)
        if job is not None:
            follow = job.followers.get(end.id)
            if follow is not None:
                follow.credit = min(self.model.limits.credit_frames, follow.credit + frames)
                self.touch(job)
        self.world.send(end, packets.credit(cookie, 0, frames))

    # Input

    def input(self, id: int, cookie: bytes, payload: bytes, wrong: int = 0) -> None:
        """A client sends INPUT: the next chunk, or one whose number is wrong."""
        model, end = self.model, self.world.speaker(id)
        if end is None or end.is_json:
            return
        job = model.jobs.get(cookie)
        number = max(0, (len(job.streams.inputs) if job is not None and job.streams is not None else 0) + 1 + wrong)
        refusal: frozenset[Code] = frozenset()
        if job is None or not self.world.may(end, job):
            refusal = NOT_FOUND
        elif job.hold is not None and job.hold.worker.is_json:
            refusal = NOT_ALLOWED
        elif wrong < 0 and 0 < self._oldest_input(job) <= number < self.of(job).input_held.lowest:
            return  # whether the broker has that one yet nobody knows
        elif wrong > 0 or (wrong and self._differs(self.of(job), number, payload)):
            refusal = BAD_PACKET
        elif wrong:
            # It came before: it takes nothing up, and so is credited at once.
            self._repeats.append((end, cookie))
        else:
            stream = self.of(job)
            if self._fits([len(sent) for sent in stream.inputs[stream.input_sent :]], payload):
                size = len(packets.input_chunk(cookie, number, payload, ENCODING))
                stream.input_held.append(size, stream.input_sent, crowded=self._is_crowded(size))
                stream.inputs.append(payload)
                stream.owed.append((number, end))
                self.touch(job)
            else:
                refusal = OVERLOADED
        if refusal:
            model.answer(end, PacketType.INPUT, refusal)
        self.world.send(end, packets.input_chunk(cookie, number, payload, ENCODING))

    def _differs(self, stream: Stream, number: int, payload: bytes) -> bool:
        """Whether the broker still has another chunk of that number, which somebody else must have sent."""
        return stream.input_held.lowest <= number and payload != stream.inputs[number - 1]

    def _oldest_input(self, job: Job) -> int:
        """The number of the oldest chunk that the broker may have yet."""
        return max(1, len(self.of(job).inputs) - self.model.limits.ring_chunks_max + 1)

    def take_input(self, id: int, cookie: bytes, frames: int, attempt: int | None = None) -> None:
        """A handler has taken some input, or says so."""
        worker = self.model.workers.get(id)
        if worker is None or worker.is_json or worker.greeting_until is not None:
            return
        hold = worker.held.get(cookie)
        job = hold.job if hold is not None else None
        if job is not None and hold is not None and attempt in (None, hold.attempt):
            stream = self.touch(job)
            stream.input_credit = min(self.model.limits.credit_frames, stream.input_credit + frames)
        number = attempt if attempt is not None else hold.attempt if hold is not None else 1
        self.world.send(worker, packets.credit(cookie, number, frames))

    def attempt_began(self, job: Job) -> None:
        """A job was given to a worker: credit begins anew, and its input from the beginning."""
        stream = self.touch(job)
        stream.base = stream.credited = stream.floor = stream.last
        stream.after_break = False
        stream.input_next = 1
        stream.input_credit = self.model.limits.credit_frames

    def resumed(self, job: Job) -> None:
        """The worker of a job is back, and goes on with this attempt."""
        stream = self.touch(job)
        stream.credited = stream.floor = stream.last
        stream.after_break = True
        stream.input_next = max(1, stream.input_next - (self.model.limits.credit_frames - stream.input_credit))
        stream.input_credit = self.model.limits.credit_frames

    def _saw_input(self, link: FakeLink, packet: Packet, _: bytes) -> None:
        worker = self.model.by_link.get(link.number)
        hold = worker.held.get(packet.cookie) if isinstance(worker, Worker) else None
        if worker is None:
            return
        if hold is None or packet.attempt != hold.attempt:
            raise BrokenPromise(f"INPUT of {packet.cookie!r} to one who does not hold it, or another attempt")
        job = hold.job
        if job is None:
            return  # it is over in this very step
        stream = self.touch(job)
        first = schemas.chunk_meta(packet.meta).first if packet.code == Code.GAP else packet.number
        if first != stream.input_next or packet.number > len(stream.inputs):
            raise BrokenPromise(f"INPUT {first} of {packet.cookie!r}, after {stream.input_next - 1}")
        if packet.code == Code.GAP:
            lowest = stream.input_held.lowest
            require(packet.number < lowest, f"a gap where input {lowest} of {packet.cookie!r} must still be there")
        elif packet.payload != stream.inputs[packet.number - 1]:
            raise BrokenPromise(f"input {packet.number} of {packet.cookie!r} is not what was sent")
        require(stream.input_credit > 0, f"input {packet.number} of {packet.cookie!r} without credit")
        stream.input_credit -= 1
        stream.input_next = packet.number + 1
        stream.input_sent = max(stream.input_sent, packet.number)

    # Credit

    def _saw_credit(self, link: FakeLink, packet: Packet, _: bytes) -> None:
        end, job = self.model.by_link.get(link.number), self.model.jobs.get(packet.cookie)
        if end is not None and not packet.attempt and packet.number == 1 and (end, packet.cookie) in self._repeats:
            self._repeats.remove((end, packet.cookie))
            return
        if job is None or end is None or job.streams is None:
            if end is not None:
                raise BrokenPromise(f"CREDIT of {packet.cookie!r}, which is no live job")
            return
        stream = self.touch(job)
        if packet.attempt:
            hold = job.hold
            if hold is None or hold.worker is not end or hold.attempt != packet.attempt:
                raise BrokenPromise(f"CREDIT of {packet.cookie!r} to one who does not hold it")
            stream.credited += packet.number
        else:
            # What it is for may have gone to another connection, and not been looked at yet.
            self._credits.append((job, end, packet.number))

    def _settle(self) -> None:
        while self._credits:
            self._check_credit(*self._credits.pop(0))
        if self._repeats:
            raise BrokenPromise(f"no CREDIT for input of {self._repeats[0][1]!r} that came before")
        while self._touched:
            job = self._touched.pop()
            stream: Stream = job.streams
            stream.touched = stream.flushed = False
            if self.model.jobs.get(job.cookie) is job:
                self._check(job, stream)
        dropped = self.driver.switchboard.counters.progress_dropped
        if dropped != self.dropped:
            raise BrokenPromise(f"{dropped} PROGRESS were dropped, and {self.dropped} should")

    @staticmethod
    def _check_credit(job: Job, end: End, frames: int) -> None:
        """A client is credited for so much input of its own that was sent on."""
        stream: Stream = job.streams
        sent = [chunk for chunk in stream.owed if chunk[1] is end and chunk[0] <= stream.input_sent]
        if len(sent) < frames:
            raise BrokenPromise(f"CREDIT for {frames} of input of {job.cookie!r} to one who sent {len(sent)}")
        for chunk in sent[:frames]:
            stream.owed.remove(chunk)

    def _check(self, job: Job, stream: Stream) -> None:
        """Everybody has what there is credit for, and credit for what was taken."""
        model, hold = self.model, job.hold
        for follow in job.followers.values():
            if follow.next and follow.next <= stream.last and follow.credit and not follow.end.congested:
                raise BrokenPromise(f"chunk {follow.next} of {job.cookie!r} was not sent, though there is credit")
        taken = stream.taken = self._taken(job, stream, stream.last)
        held = hold is not None and not hold.worker.is_json and hold.worker.id in model.workers
        if held:
            stream.floor = max(stream.floor, taken)
            if stream.credited != stream.floor:
                raise BrokenPromise(f"the worker of {job.cookie!r} has credit up to {stream.credited}, and {taken} are taken")
        if held and stream.inputs and stream.input_credit and stream.input_next <= len(stream.inputs):
            raise BrokenPromise(f"input {stream.input_next} of {job.cookie!r} was not sent, though there is credit")
        while stream.owed and stream.owed[0][0] <= stream.input_sent:
            number, sender = stream.owed.pop(0)
            # Whoever has gone needs no credit any more.
            if sender.id in model.ends:
                raise BrokenPromise(f"input {number} of {job.cookie!r} was sent on, and its sender has no credit for it")

    # The quiet phase

    def work(self) -> None:
        for job in list(self.model.jobs.values()):
            for follow in list(job.followers.values()):
                if follow.next and follow.credit < self.model.limits.credit_frames and follow.end.id in self.model.ends:
                    self.credit(follow.end.id, job.cookie, self.model.limits.credit_frames)

    # Choices

    @staticmethod
    def choices(chooser: Chooser) -> list[tuple[int, Callable[[], Operation | None]]]:
        chance, one_of = chooser.chance, chooser.one_of

        def progress() -> Operation | None:
            found = chooser.held(
                lambda hold: hold.job is not None and bool(hold.job.followers or hold.job.options.att > 1), binary=True
            )
            if not found:
                return None
            if chance(0.85):
                return "progress", *found, one_of(PAYLOADS), 0, None, chance(0.1), one_of((1, 1, 3, 7))
            return "progress", *found, one_of(PAYLOADS), one_of((-1, 0, 1, 3)), one_of((None, 1, 2)), chance(0.5)

        def credit() -> Operation | None:
            ends = chooser.ends(lambda end: bool(end.jobs) and not end.is_json)
            if not ends:
                return None
            end = one_of(ends)
            return "credit", end.id, one_of(list(end.jobs)), one_of((1, 2, 5, 100))

        def take_input() -> Operation | None:
            found = chooser.held(binary=True)
            return ("take input", *found, one_of((1, 3, 100)), one_of((None, None, 1, 2))) if found else None

        def send_input() -> Operation | None:
            return chooser.about("input", chooser.ends(), chooser.cookie(0.9), one_of(PAYLOADS), one_of((0, 0, 0, 0, 1, -1)))

        return [(10, progress), (5, credit), (4, send_input), (2, take_input)]
