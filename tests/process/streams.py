"""Both ends of a job's progress: a reader that notices any chunk that is missing without a word, and a worker that sends as fast as it
may."""

import json
import os
from collections import deque
from typing import Any

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import meta_of, payload_of
from reasonchip_broker.protocol.codes import ENCODING_BYTES, Code, PacketType
from reasonchip_broker.protocol.frames import Frame
from tests.raw_peers import RawClient, RawWorker, options


class Reader(RawClient):
    """A client that takes the progress of jobs. It credits each chunk at once, unless `credits` is turned off, and keeps none."""

    def __init__(self) -> None:
        super().__init__()
        self.credits = True
        self.last: dict[bytes, int] = {}
        """The number of the last chunk, or the last that was said to be missing, by job."""
        self.taken: dict[bytes, int] = {}
        self.missing: dict[bytes, int] = {}
        """How many chunks came, and how many were announced not to come."""
        self.results: dict[bytes, Code] = {}
        self.faults: list[str] = []
        """What must not be: a chunk that is skipped or comes twice, or comes after the RESULT."""

    def stream(self, chunks: int, chunk_bytes: int, cookie: bytes = b"", **more: Any) -> bytes:
        """Run a job that streams so much."""
        cookie = cookie or os.urandom(16)
        self.last[cookie] = 0
        self.send(packets.run(cookie, options("stream", follow=True, **more), json.dumps([chunks, chunk_bytes]).encode()))
        return cookie

    def go_on(self, cookie: bytes, last: int, *, take: bool = True, number: int = 1) -> None:
        """Follow a job after its chunk `last`."""
        self.last[cookie] = last
        self.send(packets.attach(cookie, first=last + 1, take=take, number=number))

    def hears(self, frame: Frame) -> None:
        kind, cookie, raw, code, _, number, _ = frame
        if kind == PacketType.PROGRESS:
            first = schemas.chunk_meta(meta_of(raw)).first if code == Code.GAP else number
            if cookie in self.results:
                self.faults.append(f"chunk {number} came after the RESULT")
            if first != self.last[cookie] + 1 or number < first:
                self.faults.append(f"{first} to {number} came after {self.last[cookie]}")
            self.last[cookie] = number
            count = self.missing if code == Code.GAP else self.taken
            count[cookie] = count.get(cookie, 0) + number - first + 1
            self.took(frame)
            if self.credits:
                self.send(packets.credit(cookie, 0, 1))
            self.frames.clear()
        elif kind == PacketType.RESULT:
            if cookie in self.results:
                self.faults.append("a RESULT came twice")
            self.results[cookie] = Code(code)
            self.took(frame)
        else:
            super().hears(frame)

    def took(self, frame: Frame) -> None:
        """A chunk, a gap or a RESULT."""

    async def over(self, cookie: bytes) -> None:
        """Wait for a job's end."""
        await self.until(lambda: cookie in self.results, "a stream did not end")


class Streamer(RawWorker):
    """A worker whose jobs send the progress that they are asked for, `[chunks, bytes of each]`, as fast as they are allowed to."""

    def __init__(self) -> None:
        super().__init__(self.begin)
        self.window = self.credit = 0
        self.jobs: dict[bytes, Stream] = {}
        self.sent_bytes = 0

    async def register(self, capacity: int = 1, *serves: str) -> None:
        await super().register(capacity, *serves or ("stream",))

    async def hello(self) -> schemas.WelcomeMeta:
        welcome = await super().hello()
        self.window, self.credit = welcome.window, welcome.credit
        return welcome

    def begin(self, frame: Frame) -> None:
        self.jobs[frame[1]] = Stream(frame, *json.loads(payload_of(frame[2])))
        self.pump(self.jobs[frame[1]])

    def hears(self, frame: Frame) -> None:
        self.frames.clear()
        if frame[0] == PacketType.CREDIT and frame[1] in self.jobs:
            job = self.jobs[frame[1]]
            for _ in range(min(frame[5], len(job.outstanding))):
                job.outstanding_bytes -= job.outstanding.popleft()
            self.pump(job)
        elif frame[0] == PacketType.CANCEL and frame[1] in self.jobs:
            job = self.jobs.pop(frame[1])
            self.send(packets.failed(job.cookie, job.attempt, Code.CANCELLED, "as asked"))
        else:
            super().hears(frame)

    def pump(self, job: "Stream") -> None:
        """Send what may be sent."""
        while job.sent < job.chunks:
            if job.outstanding and (
                len(job.outstanding) >= self.credit or job.outstanding_bytes + len(job.payload) > self.window
            ):
                return
            job.sent += 1
            job.outstanding.append(len(job.payload))
            job.outstanding_bytes += len(job.payload)
            self.sent_bytes += len(job.payload)
            self.send(packets.progress(job.cookie, job.attempt, job.sent, job.payload, ENCODING_BYTES))
        del self.jobs[job.cookie]
        self.send(packets.result(job.cookie, job.attempt, b"", ENCODING_BYTES))


class Stream:
    """A job that streams."""

    def __init__(self, frame: Frame, chunks: int, chunk_bytes: int) -> None:
        self.cookie = frame[1]
        self.attempt = frame[4]
        self.chunks = chunks
        self.payload = bytes(chunk_bytes)
        self.sent = 0
        self.outstanding: deque[int] = deque()
        self.outstanding_bytes = 0
