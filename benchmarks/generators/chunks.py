"""Chunks of progress: workers that stream them, as far as they have credit, and clients that check their numbers and give credit.

A worker is told of each job, sends as many chunks as it may have under way, and with each CREDIT as many again. A client counts what
comes of each job, and credits a quarter of a window at a time, as our client library does. Of each job the first chunk is 1, each
further one 1 more: one that skips some ends the run, unless a GAP has told so, which is counted.

NATS and the relay know no credit. Through the relay the client's CREDIT comes to the worker as it is. With NATS each job is a subject
with one subscriber, and its publisher is told in this process what has arrived: a window like ours, at no cost for the server.
"""

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from benchmarks.generators import nats, ours
from benchmarks.generators.connection import Connection, all_ready, connect
from benchmarks.generators.framing import FrameLength
from benchmarks.generators.load import pause
from benchmarks.generators.recorder import Recorder
from benchmarks.generators.spec import PIPELINE, Spec
from benchmarks.workloads import System

PROGRESS, CREDIT, GAP = 21, 23, 67
WINDOW = 64
"""Chunks of a job that may be under way where no WELCOME says how many."""
CREDITS = 4
"""Credits of a window: each is for a quarter of it."""
META = {"enc": "bytes"}


@dataclass(frozen=True, slots=True)
class ChunksResult:
    """What one window showed."""

    seconds: float
    chunks: int
    """Those that came to their clients within the window."""
    missing: int
    """Those that the broker said would not come."""
    broker_cpu_ns: int
    broker_user_s: float
    broker_system_s: float
    generator_cpu_ns: int
    rss_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Stream:
    """The chunks of one job: those that are sent, and what each of them is made of."""

    __slots__ = ("_after", "_before", "_between", "_sent")

    def __init__(self, before: bytes, after: bytes) -> None:
        """A chunk is `before`, its number in four bytes, `after`."""
        self._before, self._after, self._between = before, after, after + before
        self._sent = 0

    def next(self, count: int) -> bytes:
        """So many more."""
        first = self._sent + 1
        self._sent += count
        numbers = [number.to_bytes(4, "big") for number in range(first, first + count)]
        return self._before + self._between.join(numbers) + self._after


class Streamer(Connection):
    """A worker: whatever it may send it sends, at the end of the loop's turn."""

    def __init__(self, name: str, recorder: Recorder, opening: bytes, frame_length: FrameLength, payload_bytes: int) -> None:
        super().__init__(name, recorder, opening, frame_length)
        self.payload = b"c" * payload_bytes
        self.window = WINDOW
        self.streams: dict[bytes, Stream] = {}
        self._out: list[bytes] = []

    def begin(self, key: bytes, stream: Stream) -> None:
        """A job is here: a window of its chunks may go."""
        self.streams[key] = stream
        self.allow(key, self.window)

    def allow(self, key: bytes, count: int) -> None:
        """So many more chunks of a job may go."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(self.streams[key].next(count))

    def _flush(self) -> None:
        out, self._out = self._out, []
        if not self.closing:
            self.transport.write(b"".join(out))


class OurStreamer(Streamer):
    """A worker of our binary protocol."""

    def __init__(self, number: int, recorder: Recorder, capacity: int, payload_bytes: int) -> None:
        """Worker `number` (from 0), with `capacity` slots, whose chunks have `payload_bytes`."""
        opening = ours.hello(name=f"bench-{number}", inst=struct.pack(">8sQ", b"instance", number), grace=0)
        super().__init__(f"worker {number}", recorder, opening, ours.frame_length, payload_bytes)
        registration = {"cap": capacity, "serves": [PIPELINE], "labels": {}}
        self._register = ours.frame(ours.REGISTER, registration, number=ours.REGISTRATION)

    def data_received(self, data: bytes) -> None:
        """CREDIT, mostly."""
        for head in self.framing.feed(data):
            kind = head[4]
            if kind == CREDIT:
                self.allow(head[8:24], int.from_bytes(head[24:28], "big"))
            elif kind == ours.RUN:
                cookie = head[8:24]
                whole = ours.frame(PROGRESS, META, self.payload, attempt=int.from_bytes(head[6:8], "big"), cookie=cookie)
                self.begin(cookie, Stream(*ours.parts(whole, 24, 4)))
            elif kind == ours.WELCOME:
                self.window = welcomed_credit(head)
                self.transport.write(self._register)
            elif kind == ours.PING:
                self.transport.write(ours.pong(head))
            elif kind == ours.REPLY and head[5] == ours.OK:
                self.set_ready()
            else:
                self.fail(ours.describe(head))


class NatsStreamer(Streamer):
    """A connection that publishes. Its jobs are begun, and allowed more, by the clients that subscribe to them."""

    def __init__(self, number: int, recorder: Recorder, capacity: int, payload_bytes: int) -> None:
        """Publisher `number` (from 0), whose chunks have `payload_bytes`; NATS has no use for `capacity`."""
        opening = nats.CONNECT + b"PING\r\n"
        super().__init__(f"NATS worker {number}", recorder, opening, nats.frame_length, payload_bytes)

    def publish(self, subject: bytes, place: int) -> None:
        """Begin a job: a chunk has its client's place of the job, and its number, in its payload."""
        head = b"PUB %s %d\r\n%c" % (subject, len(self.payload), place)
        self.begin(subject, Stream(head, self.payload[5:] + b"\r\n"))

    def data_received(self, data: bytes) -> None:
        """Nothing that says much."""
        for head in self.framing.feed(data):
            nats.other(self, head)


class Follower(Connection):
    """A client of some jobs, each of which has a *place*, a byte that its chunks have in them."""

    def __init__(self, name: str, recorder: Recorder, opening: bytes, frame_length: FrameLength, jobs: int) -> None:
        super().__init__(name, recorder, opening, frame_length)
        self.missing = 0
        self.window = WINDOW
        self.last = [0] * jobs
        """The number of the latest chunk of each job."""
        self._credited = [0] * jobs
        self._frame_length = frame_length
        self._rest = b""

    layout: struct.Struct
    """A whole chunk: its place, its number."""
    kind: Sequence[tuple[int, bytes]]
    """Bytes that tell a chunk from all other frames, and where they stand in it."""

    def start(self) -> None:
        """Have the jobs run."""
        raise NotImplementedError

    def heard(self, head: bytes) -> None:
        """A frame that does not stand among others of the usual size and kind."""
        raise NotImplementedError

    def credit(self, credits: Sequence[tuple[int, int]]) -> None:
        """So many more chunks of the jobs at these places may come."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Chunks, mostly: whole ones are told apart by their kinds alone, and then checked by their numbers."""
        if self._rest:
            data = self._rest + data
        size = self.layout.size
        count = len(data) // size
        position = count * size
        if count and all(data[at:position:size] == byte * count for at, byte in self.kind):
            self._take(data[:position])
        else:
            position = 0
        while length := self._frame_length(data, position):
            if position + length > len(data):
                break
            self.heard(data[position : position + length])
            position += length
        self._rest = data[position:]
        self._give_credit()

    def _take(self, chunks: bytes) -> None:
        last = self.last
        for place, number in self.layout.iter_unpack(chunks):
            if number != last[place] + 1:
                self.fail(f"chunk {number} of a job came after {last[place]}")
                return
            last[place] = number
        self.recorder.jobs += len(chunks) // self.layout.size

    def gap(self, place: int, first: int, last: int) -> None:
        """The chunks from `first` to `last` will not come; that was one frame."""
        if first != self.last[place] + 1 or last < first:
            self.fail(f"the gap from {first} to {last} of a job came after {self.last[place]}")
            return
        self.missing += last - first + 1
        self._credited[place] += last - first
        self.last[place] = last

    def _give_credit(self) -> None:
        least = max(1, self.window // CREDITS)
        due = [(place, new) for place, last in enumerate(self.last) if (new := last - self._credited[place]) >= least]
        if due:
            for place, new in due:
                self._credited[place] += new
            self.credit(due)


class OurFollower(Follower):
    """A client of our binary protocol. The last byte of the first half of a cookie is the job's place."""

    kind = (4, bytes([PROGRESS])), (5, b"\0")

    def __init__(self, number: int, recorder: Recorder, jobs: int, payload_bytes: int) -> None:
        """Client `number` (from 0), with so many jobs, whose chunks have `payload_bytes`."""
        super().__init__(f"client {number}", recorder, ours.hello(), ours.frame_length, jobs)
        own = struct.pack(">BHI", 0xBE, number, 0)
        self._cookies = [own + bytes([place]) + bytes(8) for place in range(jobs)]
        self.layout = struct.Struct(f">15xB8xI{len(ours.frame(PROGRESS, META)) - 28 + payload_bytes}x")

    def start(self) -> None:
        """RUNs that are followed."""
        meta = {"p": PIPELINE, "enc": "bytes", "follow": True}
        self.transport.write(b"".join([ours.frame(ours.RUN, meta, attempt=1, cookie=cookie) for cookie in self._cookies]))

    def heard(self, head: bytes) -> None:
        """WELCOME, a chunk among other frames, a GAP."""
        kind, code = head[4], head[5]
        if kind == PROGRESS and code == GAP:
            first = msgspec.msgpack.decode(head[32 : 32 + int.from_bytes(head[28:32], "big")])["first"]
            self.gap(head[15], first, int.from_bytes(head[24:28], "big"))
        elif kind == PROGRESS and len(head) == self.layout.size:
            self._take(head)
        elif kind == ours.WELCOME:
            self.window = welcomed_credit(head)
            self.set_ready()
        elif kind == ours.PING:
            self.transport.write(ours.pong(head))
        else:
            self.fail(ours.describe(head))

    def credit(self, credits: Sequence[tuple[int, int]]) -> None:
        """CREDIT of attempt 0, as it is between a client and the broker."""
        cookies = self._cookies
        self.transport.write(b"".join([ours.frame(CREDIT, cookie=cookies[place], number=new) for place, new in credits]))


class NatsFollower(Follower):
    """A connection that subscribes to a subject for each job. Its jobs are shared out among the publishers."""

    kind = ((0, b"M"),)
    FIRST_SID = 10
    """So that each has two digits, and each chunk the same size."""

    def __init__(
        self, number: int, recorder: Recorder, jobs: int, payload_bytes: int, streamers: Sequence[NatsStreamer]
    ) -> None:
        """Client `number` (from 0), with so many jobs, whose chunks have `payload_bytes`."""
        self._subjects = [b"chunks.%02d.%02d" % (number, place) for place in range(jobs)]
        subscriptions = [b"SUB %s %d\r\n" % (name, sid) for sid, name in enumerate(self._subjects, self.FIRST_SID)]
        opening = nats.CONNECT + b"".join(subscriptions) + b"PING\r\n"
        super().__init__(f"NATS client {number}", recorder, opening, nats.frame_length, jobs)
        head = b"MSG %s %d %d\r\n" % (self._subjects[0], self.FIRST_SID, payload_bytes)
        self.layout = struct.Struct(f">{len(head)}xBI{payload_bytes - 5 + 2}x")
        self._streamers = [streamers[place % len(streamers)] for place in range(jobs)]

    def start(self) -> None:
        """Have each job's chunks published."""
        for place, (subject, streamer) in enumerate(zip(self._subjects, self._streamers, strict=True)):
            streamer.publish(subject, place)

    def heard(self, head: bytes) -> None:
        """A chunk among other lines, or such a line."""
        if head.startswith(b"MSG ") and len(head) == self.layout.size:
            self._take(head)
        else:
            nats.other(self, head)

    def credit(self, credits: Sequence[tuple[int, int]]) -> None:
        """The publisher is told in this process."""
        for place, new in credits:
            self._streamers[place].allow(self._subjects[place], new)


class _Relayed(Connection):
    """Nobody has to take it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say nothing."""
        self.opening = b""
        super().connection_made(transport)
        self.set_ready()


class RelayedFollower(_Relayed, OurFollower):
    """A client that was joined with one worker by a relay."""


class RelayedStreamer(_Relayed, OurStreamer):
    """The worker that it was joined with."""


def welcomed_credit(head: bytes) -> int:
    """How many chunks of a job may be under way, as a WELCOME has it."""
    meta = msgspec.msgpack.decode(head[32 : 32 + int.from_bytes(head[28:32], "big")])
    return int(meta.get("credit", WINDOW))


async def run_chunks(spec: Spec) -> ChunksResult:
    """Have all jobs of `spec` stream. Raises ConnectionError as soon as anything is not as it should be."""
    recorder = Recorder(spec.broker_pid)
    opened: list[Connection] = []
    try:
        streamers, followers = _peers(spec, recorder)
        sides: Sequence[tuple[str, Sequence[Connection]]] = (spec.workers_url, streamers), (spec.clients_url, followers)
        for url, side in sides:
            for connection in side:
                await connect(url, connection)
                opened.append(connection)
            await all_ready(opened, recorder)
        for follower in followers:
            follower.start()
        await pause(spec.warmup_s, recorder)
        before = [list(follower.last) for follower in followers]
        missing = sum(follower.missing for follower in followers)
        recorder.begin()
        await pause(spec.window_s, recorder)
        found = recorder.end()
    finally:
        for connection in opened:
            connection.close()
    for follower, lasts in zip(followers, before, strict=True):
        silent = [place for place, last in enumerate(lasts) if follower.last[place] == last]
        if silent:
            raise ConnectionError(f"{follower.name}: no chunk of {len(silent)} of its jobs came in {spec.window_s:.1f} s")
    return ChunksResult(
        seconds=found.seconds,
        chunks=found.jobs,
        missing=sum(follower.missing for follower in followers) - missing,
        broker_cpu_ns=found.broker_cpu_ns,
        broker_user_s=found.broker_user_s,
        broker_system_s=found.broker_system_s,
        generator_cpu_ns=found.generator_cpu_ns,
        rss_bytes=found.rss_bytes,
    )


def _peers(spec: Spec, recorder: Recorder) -> tuple[Sequence[Streamer], Sequence[Follower]]:
    """The workers and the clients of the system that is measured."""
    workers, clients, size = range(spec.workers), range(spec.clients), spec.payload_bytes
    if spec.system is System.NATS:
        publishers = [NatsStreamer(number, recorder, spec.capacity, size) for number in workers]
        return publishers, [NatsFollower(number, recorder, spec.in_flight, size, publishers) for number in clients]
    relayed = spec.system is System.RELAY
    streamer, follower = (RelayedStreamer, RelayedFollower) if relayed else (OurStreamer, OurFollower)
    return (
        [streamer(number, recorder, spec.capacity, size) for number in workers],
        [follower(number, recorder, spec.in_flight, size) for number in clients],
    )
