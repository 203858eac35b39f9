"""The NATS client protocol, as raw text: requests to a queue group, and replies to an inbox.

A client subscribes once, to all subjects under an inbox of its own, and gives each request a reply subject of its own under it, as
the official clients do. A worker subscribes to the queue group. NATS knows no capacity: it gives each request to a member at random.
"""

from collections.abc import Iterable
from time import perf_counter_ns

from benchmarks.generators.closed_loop import PLACES_MAX, Batch, Client, Worker
from benchmarks.generators.connection import Connection
from benchmarks.generators.recorder import Recorder
from benchmarks.generators.spec import PIPELINE

CONNECT = (
    b'CONNECT {"verbose":false,"pedantic":false,"tls_required":false,"name":"benchmark","lang":"raw","version":"1",'
    b'"protocol":1,"echo":true,"headers":true,"no_responders":true}\r\n'
)
GROUP = b"workers"

# One letter for a place; a count of 9 digits makes the token unique.
_LETTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
_PLACE_OF = bytes(max(_LETTERS.find(letter), 0) for letter in range(256))
_TOKEN_BYTES = 10
_MESSAGES = b"M" * 4096


def inbox(number: int) -> bytes:
    """The inbox of client `number`, as long as one of the official clients'."""
    return b"_INBOX.%022d." % number


def frame_length(data: bytes, position: int) -> int:
    """The length of the protocol line at `position`, with the payload if it is a MSG; 0 if the line is not complete."""
    end = data.find(b"\r\n", position)
    if end < 0:
        return 0
    length = end + 2 - position
    if data.startswith(b"MSG ", position):
        length += int(data[data.rindex(b" ", position, end) + 1 : end]) + 2
    return length


def other(connection: Connection, head: bytes) -> None:
    """What is not a message: a PING is answered, the first PONG says that what we sent was taken, an error ends the run."""
    if head.startswith(b"PING"):
        connection.transport.write(b"PONG\r\n")
    elif head.startswith(b"PONG"):
        connection.set_ready()
    elif not head.startswith((b"INFO", b"+OK")):
        connection.fail(head.decode(errors="replace").strip())


class NatsClient(Client):
    """A connection that makes requests."""

    def __init__(
        self, number: int, recorder: Recorder, in_flight: int, payload_bytes: int, *, pipeline: str = PIPELINE
    ) -> None:
        """Client `number` (from 0), with `in_flight` requests of `payload_bytes` each; with none it has no use for an inbox."""
        assert len(_LETTERS) == PLACES_MAX
        head = b"PUB %s %s" % (pipeline.encode(), inbox(number))
        batch = Batch(head, b" %d\r\n%s\r\n" % (payload_bytes, b"v" * payload_bytes))
        opening = CONNECT + (b"SUB %s* 1\r\n" % inbox(number) if in_flight else b"") + b"PING\r\n"
        super().__init__(f"NATS client {number}", recorder, opening, frame_length, in_flight=in_flight, batch=batch)
        self._answer = 0  # Size of an answer, once one was seen.
        self._place = len(b"MSG ") + len(inbox(number))

    def fresh(self, places: Iterable[int], count: int) -> list[bytes]:
        """The last part of each new reply subject."""
        return [b"%c%09x" % (_LETTERS[place], number) for number, place in enumerate(places, count)]

    def data_received(self, data: bytes) -> None:
        """Answers, mostly."""
        now = perf_counter_ns()
        size = self._answer
        if size and self.framing.between_frames:
            number, left = divmod(len(data), size)
            if not left and data[::size] == _MESSAGES[:number]:
                self.finished(data[self._place :: size].translate(_PLACE_OF), now)
                return
        letters = bytes([head[self._place] for head in self.framing.feed(data) if self._ends_job(head)])
        self.finished(letters.translate(_PLACE_OF), now)

    def _ends_job(self, head: bytes) -> bool:
        """Whether this is an answer. One that nobody gave (HMSG with status 503) ends the run."""
        if head.startswith(b"MSG "):
            self._answer = frame_length(head, 0)
            return True
        other(self, head)
        return False


class NatsWorker(Worker):
    """A connection that is a member of the queue group."""

    def __init__(self, number: int, recorder: Recorder, capacity: int, payload_bytes: int, *, pipeline: str = PIPELINE) -> None:
        """Worker `number` (from 0), whose answers have `payload_bytes`; NATS has no use for `capacity`."""
        batch = Batch(b"PUB ", b" %d\r\n%s\r\n" % (payload_bytes, b"r" * payload_bytes))
        subject = pipeline.encode()
        opening = CONNECT + b"SUB %s %s 1\r\nPING\r\n" % (subject, GROUP)
        super().__init__(f"NATS worker {number}", recorder, opening, frame_length, batch=batch)
        self._run = 0  # Size of a request, once one was seen.
        self._reply = len(b"MSG %s 1 " % subject)
        self._reply_end = self._reply + len(inbox(0)) + _TOKEN_BYTES

    def data_received(self, data: bytes) -> None:
        """Requests, mostly."""
        size = self._run
        if size and self.framing.between_frames:
            number, left = divmod(len(data), size)
            if not left and data[::size] == _MESSAGES[:number]:
                length = self._reply_end - self._reply
                self.batch.write(self.transport, [data[at : at + length] for at in range(self._reply, len(data), size)])
                return
        subjects = [head[self._reply : self._reply_end] for head in self.framing.feed(data) if self._is_job(head)]
        if subjects:
            self.batch.write(self.transport, subjects)

    def _is_job(self, head: bytes) -> bool:
        """Whether this is a request."""
        if head.startswith(b"MSG "):
            self._run = frame_length(head, 0)
            return True
        other(self, head)
        return False
