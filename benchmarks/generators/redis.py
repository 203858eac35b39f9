"""Redis as a broker of jobs: a list of jobs, which workers pop, and a list of answers for each client.

A connection that waits for a list says nothing else meanwhile. So a client has two, one to push jobs and one to pop answers (as many
as it has jobs in flight, asked for in advance), and a worker's connection has one job at a time: `spread` makes one for each slot.
"""

import struct
from collections.abc import Iterable
from time import perf_counter_ns

from benchmarks.generators.closed_loop import Batch, Client, Worker
from benchmarks.generators.connection import Connection
from benchmarks.generators.recorder import Recorder

JOBS = b"jobs"
ID_BYTES = 12
WORKERS_MAX = 64
_ID = struct.Struct(">3sBQ").pack


def spread(workers: int, capacity: int) -> int:
    """How many connections stand for so many workers with so many slots each."""
    return min(WORKERS_MAX, workers * capacity)


def command(*words: bytes) -> bytes:
    """A command, as clients write it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def frame_length(data: bytes, position: int) -> int:
    """The length of the reply at `position`: a line, or two strings; 0 if that can't be told yet."""
    end = data.find(b"\r\n", position)
    if end < 0:
        return 0
    if not data.startswith(b"*2", position):
        return end + 2 - position
    for _ in range(2):
        start = end + 2
        end = data.find(b"\r\n", start)
        if end < 0:
            return 0
        end += 2 + int(data[start + 1 : end])
    return end + 2 - position


def element(head: bytes) -> bytes:
    """How what was popped begins."""
    return head[head.index(b"\r\n", head.index(b"$", head.index(b"\r\n", 4) + 3)) + 2 :][:ID_BYTES]


class _Pusher(Connection):
    """The connection that a client pushes its jobs with."""

    def data_received(self, data: bytes) -> None:
        """How long the list is, each time, which says nothing."""
        if data.startswith(b"-"):
            self.fail(data.decode(errors="replace").strip())
        self.set_ready()


class RedisClient(Client):
    """A client: this is the connection that it pops answers with."""

    def __init__(self, number: int, recorder: Recorder, in_flight: int, payload_bytes: int) -> None:
        """Client `number` (from 0, below 1,000), with `in_flight` jobs of `payload_bytes` each."""
        job = command(b"RPUSH", JOBS, bytes(payload_bytes))
        at = len(job) - payload_bytes - 2
        batch = Batch(job[:at], job[at + ID_BYTES :])
        name = f"Redis client {number}"
        super().__init__(name, recorder, command(b"PING"), frame_length, in_flight=in_flight, batch=batch)
        self.pusher = _Pusher(f"{name}, pushing", recorder, command(b"PING"), frame_length)
        self._own = b"%03d" % number
        self._pop = command(b"BLPOP", b"answers:" + self._own, b"0")

    def companions(self) -> list[Connection]:
        """The other connection."""
        return [self.pusher]

    def fresh(self, places: Iterable[int], count: int) -> list[bytes]:
        """Whose job it is, its place and its count."""
        return [_ID(self._own, place, number) for number, place in enumerate(places, count)]

    def start(self) -> None:
        """Ask for all answers in advance."""
        self.ask()
        super().start()

    def ask(self) -> None:
        """Ask for as many answers as there may be jobs in flight."""
        self.outgoing = self.pusher.transport
        self.ask_again(self.in_flight)

    def ask_again(self, answers: int) -> None:
        """Ask for so many more."""
        if answers:
            self.transport.write(self._pop * answers)

    def data_received(self, data: bytes) -> None:
        """Answers."""
        now = perf_counter_ns()
        places = bytearray()
        for head in self.framing.feed(data):
            if self._ends_job(head):
                places.append(element(head)[3])
        self.ask_again(len(places))
        self.finished(bytes(places), now)

    def _ends_job(self, head: bytes) -> bool:
        """Whether this is an answer; anything that is not as it should be ends the run."""
        if head.startswith(b"*2"):
            return True
        if head.startswith(b"+PONG"):
            self.set_ready()
        else:
            self.fail(head.decode(errors="replace").strip())
        return False


class RedisWorker(Worker):
    """A slot of a worker."""

    def __init__(self, number: int, recorder: Recorder, capacity: int, payload_bytes: int) -> None:
        """Slot `number` (from 0), whose results have `payload_bytes`."""
        opening = command(b"PING") + command(b"BLPOP", JOBS, b"0")
        super().__init__(f"Redis worker {number}", recorder, opening, frame_length, batch=Batch(b"", b""))
        push = command(b"RPUSH", b"answers:000", bytes(payload_bytes))
        at = len(push) - payload_bytes - 2
        whose = push.index(b"000")
        self._parts = push[:whose], push[whose + 3 : at], push[at + ID_BYTES :] + command(b"BLPOP", JOBS, b"0")

    def data_received(self, data: bytes) -> None:
        """One job at a time."""
        for head in self.framing.feed(data):
            if head.startswith(b"*2"):
                job = element(head)
                before, between, after = self._parts
                self.transport.writelines([before, job[:3], between, job, after])
            elif head.startswith(b"+PONG"):
                self.set_ready()
            elif not head.startswith(b":"):
                self.fail(head.decode(errors="replace").strip())
