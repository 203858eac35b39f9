"""AMQP 0-9-1, as raw bytes: requests to a queue, and answers by direct reply-to (`amq.rabbitmq.reply-to`), as RabbitMQ has it.

Client and worker open a connection and a channel; the client consumes its answers, the worker the queue, neither with
acknowledgements, which is the cheapest that RabbitMQ offers. A message is three frames, a method, a header, a body; of a large one the
body is several.
"""

import struct
from time import perf_counter_ns

from benchmarks.generators.closed_loop import ID_BYTES, Batch, Client, Worker
from benchmarks.generators.connection import Connection
from benchmarks.generators.recorder import Recorder

PREFACE = b"AMQP\x00\x00\x09\x01"
QUEUE = b"bench"
REPLY_TO = b"amq.rabbitmq.reply-to"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
BODY_BYTES_MAX = 131_072 - 8
"""Of one frame: RabbitMQ's default, without what is around a body."""
_END = b"\xce"
_CONNECTION, _CHANNEL, _QUEUE, _BASIC = 10, 20, 50, 60
_DELIVER = struct.pack(">HH", _BASIC, 60)


def short(text: bytes) -> bytes:
    """A short string."""
    return bytes((len(text),)) + text


def frame(kind: int, body: bytes, channel: int = 1) -> bytes:
    """One frame."""
    return struct.pack(">BHI", kind, channel, len(body)) + body + _END


def method(kind: int, number: int, body: bytes = b"", channel: int = 1) -> bytes:
    """A frame that calls a method."""
    return frame(METHOD, struct.pack(">HH", kind, number) + body, channel)


def message(routing_key: bytes, size: int, reply_to: bytes = b"") -> bytes:
    """The frames before a message's body, and the beginning of the frame that holds it."""
    publish = method(_BASIC, 40, struct.pack(">H", 0) + short(b"") + short(routing_key) + b"\0")
    flags = 1 << 9 if reply_to else 0
    properties = struct.pack(">HHQH", _BASIC, 0, size, flags) + (short(reply_to) if reply_to else b"")
    return publish + frame(HEADER, properties) + struct.pack(">BHI", BODY, 1, min(size, BODY_BYTES_MAX))


def after_id(size: int) -> bytes:
    """What comes after the id at the beginning of a body of so many bytes: the rest of its frame, and the frames of the rest."""
    further = [frame(BODY, bytes(min(size - at, BODY_BYTES_MAX))) for at in range(BODY_BYTES_MAX, size, BODY_BYTES_MAX)]
    return bytes(min(size, BODY_BYTES_MAX) - ID_BYTES) + _END + b"".join(further)


class _Bodies:
    """What comes of messages, whose ids are the beginnings of their bodies."""

    def __init__(self) -> None:
        self._id = b""
        self._left = 0

    def begin(self, header: bytes) -> None:
        """A header says how many bytes a body has."""
        self._id = b""
        self._left = int.from_bytes(header[11:19], "big")

    def ended(self, body: bytes) -> bytes:
        """The id of the message that this frame is the last of; nothing while there is more to come."""
        self._id = self._id or body[7 : 7 + ID_BYTES]
        self._left -= int.from_bytes(body[3:7], "big")
        return b"" if self._left > 0 else self._id


def frame_length(data: bytes, position: int) -> int:
    """The length of the frame at `position`; 0 if its header is not complete."""
    if len(data) - position < 7:
        return 0
    return 8 + int.from_bytes(data[position + 3 : position + 7], "big")


class _Conversation:
    """How a connection, and its one channel, is opened, step by step."""

    def __init__(self, connection: Connection, *last: bytes) -> None:
        """`last` is what is asked for once the channel is open; the answer to the last of it ends the conversation."""
        self._connection = connection
        self._last = last
        self._left = len(last)

    def hears(self, head: bytes) -> bool:
        """A method that is no delivery. Returns whether all is said that has to be."""
        kind, number = struct.unpack_from(">HH", head, 7)
        write = self._connection.transport.write
        if (kind, number) == (_CONNECTION, 10):
            login = struct.pack(">I", len(b"\0guest\0guest")) + b"\0guest\0guest"
            write(method(_CONNECTION, 11, struct.pack(">I", 0) + short(b"PLAIN") + login + short(b"en_US"), 0))
        elif (kind, number) == (_CONNECTION, 30):
            channels, size, _ = struct.unpack_from(">HIH", head, 11)
            write(method(_CONNECTION, 31, struct.pack(">HIH", channels, size, 0), 0))
            write(method(_CONNECTION, 40, short(b"/") + short(b"") + b"\0", 0))
        elif (kind, number) == (_CONNECTION, 41):
            write(method(_CHANNEL, 10, short(b"")))
        elif (kind, number) == (_CHANNEL, 11):
            write(b"".join(self._last))
        elif (kind, number) in ((_CONNECTION, 50), (_CHANNEL, 40)):
            self._connection.fail(head[13:].decode(errors="replace"))
        else:
            self._left -= 1
            return not self._left
        return False


def _consume(queue: bytes) -> bytes:
    """Ask for all messages of a queue, without acknowledging them."""
    return method(_BASIC, 20, struct.pack(">H", 0) + short(queue) + short(b"") + b"\x02" + struct.pack(">I", 0))


class AmqpClient(Client):
    """A connection that makes requests."""

    def __init__(self, number: int, recorder: Recorder, in_flight: int, payload_bytes: int) -> None:
        """Client `number` (from 0), with `in_flight` requests of `payload_bytes` each."""
        batch = Batch(message(QUEUE, payload_bytes, REPLY_TO), after_id(payload_bytes))
        name = f"AMQP client {number}"
        super().__init__(name, recorder, PREFACE, frame_length, in_flight=in_flight, batch=batch)
        self._opens = _Conversation(self, _consume(REPLY_TO))
        self._bodies = _Bodies()

    def data_received(self, data: bytes) -> None:
        """Answers: of each the body is what counts."""
        now = perf_counter_ns()
        places = bytearray()
        for head in self.framing.feed(data):
            places += self._ended(head)[:1]
        self.finished(bytes(places), now)

    def _ended(self, head: bytes) -> bytes:
        """The id of the job that this frame ends, if it ends one."""
        if head[0] == BODY:
            return self._bodies.ended(head)
        if head[0] == HEADER:
            self._bodies.begin(head)
        elif head[0] == METHOD and not head.startswith(_DELIVER, 7) and self._opens.hears(head):
            self.set_ready()
        return b""


class AmqpWorker(Worker):
    """A connection that answers requests as they come. RabbitMQ does not know how many it takes at once: without
    acknowledgements it gives it all there are."""

    def __init__(self, number: int, recorder: Recorder, capacity: int, payload_bytes: int) -> None:
        """Worker `number` (from 0), whose answers have `payload_bytes`."""
        super().__init__(f"AMQP worker {number}", recorder, PREFACE, frame_length, batch=Batch(b"", b""))
        declare = method(_QUEUE, 10, struct.pack(">H", 0) + short(QUEUE) + b"\0" + struct.pack(">I", 0))
        self._opens = _Conversation(self, declare, _consume(QUEUE))
        self._size = payload_bytes
        self._rest = after_id(payload_bytes)
        self._bodies = _Bodies()
        self._heads: dict[bytes, bytes] = {}
        self._reply_to = b""

    def data_received(self, data: bytes) -> None:
        """Requests."""
        out: list[bytes] = []
        for head in self.framing.feed(data):
            kind = head[0]
            if kind == HEADER:
                # Class, weight, size, flags, and then reply_to, the only property that our clients set.
                self._reply_to = head[22 : 22 + head[21]]
                self._bodies.begin(head)
            elif kind == BODY and (job := self._bodies.ended(head)):
                before = self._heads.get(self._reply_to)
                if before is None:
                    before = self._heads[self._reply_to] = message(self._reply_to, self._size)
                out += before, job, self._rest
            elif kind == METHOD and not head.startswith(_DELIVER, 7) and self._opens.hears(head):
                self.set_ready()
        if out:
            self.transport.writelines(out)
