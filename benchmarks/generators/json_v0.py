"""The JSON protocol as existing ReasonChip 0.0.x peers speak it: the same ten keys in the same order, compact, null where unused.

Variables and results are strings that hold JSON; the payload of a workload is the size of that JSON text.
"""

from collections.abc import Iterable
from time import perf_counter_ns

from benchmarks.generators.closed_loop import Batch, Client, Worker
from benchmarks.generators.recorder import Recorder

PIPELINE = b"bench"
ZERO_COOKIE = b"00000000-0000-4000-8000-000000000000"

_COOKIE_KEY = b'"cookie":"'
_PLACE = 24  # Where in a cookie's text the place is: two digits, before ten digits of the count.
_HEX_LOW = bytes(int(chr(c), 16) if chr(c) in "0123456789abcdef" else 0 for c in range(256))
_HEX_HIGH = bytes(digit << 4 for digit in _HEX_LOW)
_MANY = 4096


def frame(kind: bytes, **fields: bytes) -> bytes:
    """One frame; `fields` are JSON values by key, the others are null."""
    keys = ("cookie", "capacity", "pipeline", "variables", "detach", "rc", "error", "stacktrace", "result")
    values = [b'"%s":%s' % (key.encode(), fields.get(key, b"null")) for key in keys]
    text = b'{"packet_type":"%s",%s}' % (kind, b",".join(values))
    return len(text).to_bytes(4, "big") + text


def frame_length(data: bytes, position: int) -> int:
    """The length of the frame at `position`, its length field included; 0 if that is not complete."""
    if len(data) - position < 4:
        return 0
    return 4 + int.from_bytes(data[position : position + 4], "big")


def variables(size: int) -> bytes:
    """A JSON string that holds a JSON object of `size` bytes (at least 9), as ReasonChip writes it."""
    return b'"{\\"x\\": \\"%s\\"}"' % (b"v" * (size - 9))


def result(size: int) -> bytes:
    """A JSON string that holds a JSON string of `size` bytes (at least 2)."""
    return b'"\\"%s\\""' % (b"r" * (size - 2))


def places(high: bytes, low: bytes) -> bytes:
    """The numbers that pairs of hexadecimal digits stand for: all first digits, all second ones."""
    return bytes([a | b for a, b in zip(high.translate(_HEX_HIGH), low.translate(_HEX_LOW), strict=True)])


def split(whole: bytes, size: int) -> tuple[bytes, bytes]:
    """What comes before and after the last `size` bytes of a frame's cookie."""
    end = whole.index(_COOKIE_KEY) + len(_COOKIE_KEY) + len(ZERO_COOKIE)
    return whole[: end - size], whole[end:]


def cookie_at(head: bytes) -> int:
    """Where a frame's cookie begins; -1 if it names none."""
    at = head.find(_COOKIE_KEY)
    return at + len(_COOKIE_KEY) if at >= 0 else -1


class JsonClient(Client):
    """A client connection. There is no handshake: it is ready when it is connected."""

    def __init__(self, number: int, recorder: Recorder, in_flight: int, payload_bytes: int) -> None:
        """Client `number` (from 0), with `in_flight` jobs whose variables are JSON of `payload_bytes`."""
        cookie = b'"%08x%s"' % (number + 1, ZERO_COOKIE[8:])
        run = frame(
            b"RUN",
            cookie=cookie,
            pipeline=b'"%s"' % PIPELINE,
            variables=variables(payload_bytes),
            detach=b"false",
        )
        batch = Batch(*split(run, 12))
        super().__init__(f"JSON client {number}", recorder, b"", frame_length, in_flight=in_flight, batch=batch)
        self._answer = 0  # Size of a good RESULT, once one was seen, and where in it the place and the O of "OK" are.
        self._place = 0
        self._outcome = 0
        self.set_ready()

    def fresh(self, places: Iterable[int], count: int) -> list[bytes]:
        """The last twelve digits of each new cookie: the place, and the count."""
        return [b"%02x%010x" % (place, number) for number, place in enumerate(places, count)]

    def data_received(self, data: bytes) -> None:
        """RESULTs; whole ones of the usual size are told apart by two bytes alone."""
        now = perf_counter_ns()
        size = self._answer
        if size and self.framing.between_frames:
            number, left = divmod(len(data), size)
            ok = self._outcome
            if not left and data[4::size] == b"{" * number and data[ok::size] == b"O" * number:
                self.finished(places(data[self._place :: size], data[self._place + 1 :: size]), now)
                return
        self.finished(bytes([self._ended(head) for head in self.framing.feed(data) if self._ends_job(head)]), now)

    def _ends_job(self, head: bytes) -> bool:
        """Whether this frame is a job's good end; anything else ends the run."""
        ok = head.find(b'"rc":"OK"')
        at = cookie_at(head)
        if ok < 0 or at < 0 or not head.startswith(b'{"packet_type":"RESULT"', 4):
            self.fail(head[4:].decode(errors="replace"))
            return False
        self._answer = frame_length(head, 0)
        self._place = at + _PLACE
        self._outcome = ok + len(b'"rc":"')
        return True

    def _ended(self, head: bytes) -> int:
        """The place of the job that this RESULT ends."""
        return int(head[self._place : self._place + 2], 16)


class JsonWorker(Worker):
    """A worker connection. Its REGISTER is not answered."""

    def __init__(self, number: int, recorder: Recorder, capacity: int, payload_bytes: int) -> None:
        """Worker `number` (from 0), with `capacity` slots, whose results are JSON of `payload_bytes`."""
        answer = frame(b"RESULT", cookie=b'"%s"' % ZERO_COOKIE, rc=b'"OK"', result=result(payload_bytes))
        register = frame(b"REGISTER", capacity=b"%d" % capacity)
        batch = Batch(*split(answer, len(ZERO_COOKIE)))
        super().__init__(f"JSON worker {number}", recorder, register, frame_length, batch=batch)
        self._run = 0  # Size of a RUN, once one was seen, and where in it the cookie begins.
        self._cookie = 0
        self.set_ready()

    def data_received(self, data: bytes) -> None:
        """RUNs."""
        size = self._run
        if size and self.framing.between_frames:
            number, left = divmod(len(data), size)
            if not left and data[4::size] == b"{" * number:
                self.batch.write(self.transport, [data[at : at + 36] for at in range(self._cookie, len(data), size)])
                return
        ids = [head[self._cookie : self._cookie + 36] for head in self.framing.feed(data) if self._is_job(head)]
        if ids:
            self.batch.write(self.transport, ids)

    def _is_job(self, head: bytes) -> bool:
        """Whether this frame is a job; anything else ends the run."""
        at = cookie_at(head)
        if at < 0 or not head.startswith(b'{"packet_type":"RUN"', 4):
            self.fail(head[4:].decode(errors="replace"))
            return False
        self._run = frame_length(head, 0)
        self._cookie = at
        return True
