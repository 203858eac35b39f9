"""The binary protocol of our broker (docs/reference/protocol.md), as raw bytes.

The numbers are written out here and not imported: the generator measures what the page says, whatever the code does.
"""

import struct
from time import perf_counter_ns

import msgspec

from benchmarks.generators.closed_loop import Batch, Client, Worker
from benchmarks.generators.recorder import Recorder
from benchmarks.generators.spec import PIPELINE

PREFACE = b"RCB\x01"
HEADER = struct.Struct(">IBBH16sII")  # length, type, code, attempt, cookie, number, meta length
HELLO, WELCOME, PING, PONG, GOODBYE, REPLY, REGISTER, RUN, RESULT, ACK = 1, 2, 3, 4, 5, 6, 16, 17, 18, 20
OK, QUEUED, ANSWERS = 0, 64, 64
NO_COOKIE = bytes(16)
REGISTRATION = 1  # The request id of a worker's REGISTER.
ACK_RESULTS, ACK_BYTES, ACK_NS = 64, 64 * 1024, 50_000_000
"""When the client library acknowledges RESULTs: so many, or as few as have so many bytes, or after that time."""

_TYPE, _CODE, _ATTEMPT, _PLACE, _NUMBER, _META = 4, 5, 6, 15, 24, 32
_MANY = 4096
_RUNS = bytes([RUN]) * _MANY
_RESULTS = bytes([RESULT]) * _MANY
_OKS = bytes(_MANY)


def frame(
    kind: int,
    meta: object = None,
    payload: bytes = b"",
    *,
    attempt: int = 0,
    cookie: bytes = NO_COOKIE,
    number: int = 0,
) -> bytes:
    """One frame; `meta` is encoded as MessagePack, None means none."""
    body = b"" if meta is None else msgspec.msgpack.encode(meta)
    return HEADER.pack(28 + len(body) + len(payload), kind, 0, attempt, cookie, number, len(body)) + body + payload


def frame_length(data: bytes, position: int) -> int:
    """The length of the frame at `position`, its length field included; 0 if its header is not complete."""
    if len(data) - position < _META:
        return 0
    return 4 + int.from_bytes(data[position : position + 4], "big")


def hello(**more: object) -> bytes:
    """The preface and the HELLO that a peer opens with."""
    return PREFACE + frame(HELLO, {"sw": "benchmark", "v": "1", "feat": [], **more})


def parts(whole: bytes, first: int, size: int) -> tuple[bytes, bytes]:
    """What comes before, and what after, the `size` bytes at `first` that are new in each frame."""
    return whole[:first], whole[first + size :]


def pong(ping: bytes) -> bytes:
    """The answer to a PING."""
    return frame(PONG, number=int.from_bytes(ping[_NUMBER : _NUMBER + 4], "big"))


def describe(head: bytes) -> str:
    """For an error: what came, with whatever its meta says."""
    size = int.from_bytes(head[28:32], "big")
    try:
        meta = msgspec.msgpack.decode(head[_META : _META + size]) if size else {}
    except msgspec.DecodeError:
        meta = "a meta that does not decode"
    return f"packet type {head[_TYPE]} with code {head[_CODE]} and {meta}"


class OurClient(Client):
    """A client connection. A cookie is 7 bytes of its own, one byte for the place, and a count of 8 bytes."""

    def __init__(
        self,
        number: int,
        recorder: Recorder,
        in_flight: int,
        payload_bytes: int,
        *,
        acks: bool = False,
        pipeline: str = PIPELINE,
    ) -> None:
        """Client `number` (from 0), with `in_flight` jobs of `payload_bytes` each."""
        # The first byte differs from 0, so that no cookie is all zeros.
        own = struct.pack(">BHI", 0xBE, number, 0)
        run = frame(RUN, {"p": pipeline, "enc": "bytes"}, b"v" * payload_bytes, attempt=1, cookie=own + bytes(9))
        batch = Batch(*parts(run, _PLACE, 9))
        super().__init__(f"client {number}", recorder, hello(), frame_length, in_flight=in_flight, batch=batch)
        self._answer = 0  # Size of a RESULT frame, once one was seen.
        self._acks = acks
        self._received = self._told = self._told_at = self._untold_bytes = 0

    def data_received(self, data: bytes) -> None:
        """RESULTs, mostly: whole ones of the usual size are told apart by their types and codes alone."""
        now = perf_counter_ns()
        size = self._answer
        if size and self.framing.between_frames:
            number, left = divmod(len(data), size)
            if not left and data[_TYPE::size] == _RESULTS[:number] and data[_CODE::size] == _OKS[:number]:
                self._answered(data[_PLACE::size], len(data), now)
                return
        places = bytes([head[_PLACE] for head in self.framing.feed(data) if self._ends_job(head)])
        self._answered(places, len(data), now)

    def _answered(self, places: bytes, size: int, now: int) -> None:
        self._acknowledge(len(places), size, now)
        self.finished(places, now)

    def _acknowledge(self, answers: int, size: int, now: int) -> None:
        if self._acks:
            self._received += answers
            self._untold_bytes += size
            untold = self._received - self._told
            if untold >= ACK_RESULTS or self._untold_bytes >= ACK_BYTES or (untold and now - self._told_at >= ACK_NS):
                self._told, self._told_at, self._untold_bytes = self._received, now, 0
                self.transport.write(frame(ACK, number=self._received & 0xFFFF_FFFF))

    def _ends_job(self, head: bytes) -> bool:
        """Whether this frame is a job's good end; anything that is not as it should be ends the run."""
        kind, code = head[_TYPE], head[_CODE]
        if kind == RESULT and code == OK:
            self._answer = frame_length(head, 0)
            return True
        if kind == WELCOME:
            self.set_ready()
        elif kind == PING:
            self.transport.write(pong(head))
        elif kind == REPLY and code >= ANSWERS:
            self.recorder.queued += code == QUEUED
        else:
            self.fail(describe(head))
        return False


class OurWorker(Worker):
    """A worker connection; it registers once it is welcomed."""

    def __init__(self, number: int, recorder: Recorder, capacity: int, payload_bytes: int, *, pipeline: str = PIPELINE) -> None:
        """Worker `number` (from 0), with `capacity` slots, whose results have `payload_bytes`."""
        opening = hello(name=f"bench-{number}", inst=struct.pack(">8sQ", b"instance", number), grace=0)
        result = frame(RESULT, {"enc": "bytes"}, b"r" * payload_bytes)
        # The attempt and the cookie are neighbours in a header, and both are echoed.
        batch = Batch(*parts(result, _ATTEMPT, 18))
        super().__init__(f"worker {number}", recorder, opening, frame_length, batch=batch)
        self._register = frame(REGISTER, {"cap": capacity, "serves": [pipeline], "labels": {}}, number=REGISTRATION)
        self._run = 0  # Size of a RUN frame, once one was seen.

    def data_received(self, data: bytes) -> None:
        """RUNs, mostly."""
        size = self._run
        if size and self.framing.between_frames:
            number, left = divmod(len(data), size)
            if not left and data[_TYPE::size] == _RUNS[:number]:
                self.batch.write(self.transport, [data[at : at + 18] for at in range(_ATTEMPT, len(data), size)])
                return
        ids = [head[_ATTEMPT : _ATTEMPT + 18] for head in self.framing.feed(data) if self._is_job(head)]
        if ids:
            self.batch.write(self.transport, ids)

    def _is_job(self, head: bytes) -> bool:
        """Whether this frame is a job; anything that is not as it should be ends the run."""
        kind = head[_TYPE]
        if kind == RUN:
            self._run = frame_length(head, 0)
            return True
        if kind == WELCOME:
            self.transport.write(self._register)
        elif kind == PING:
            self.transport.write(pong(head))
        elif kind == REPLY and head[_CODE] == OK:
            self.set_ready()
        else:
            self.fail(describe(head))
        return False
