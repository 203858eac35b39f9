"""The Gearman protocol, as raw bytes: jobs of one function, which workers grab.

A worker asks for as many jobs as it has slots, and for another one with each answer. Told that there is none, it sleeps until it is
woken, and asks again. Each job has its id in its data, and so has its answer.
"""

import struct
from time import perf_counter_ns

from benchmarks.generators.closed_loop import ID_BYTES, Batch, Client, Worker
from benchmarks.generators.recorder import Recorder

_HEADER = struct.Struct(">4sII")
_HEADER_BYTES = 12
CAN_DO, PRE_SLEEP, NOOP, SUBMIT_JOB, JOB_CREATED, GRAB_JOB, NO_JOB, JOB_ASSIGN = 1, 4, 6, 7, 8, 9, 10, 11
WORK_COMPLETE, ECHO_REQ, ECHO_RES = 13, 16, 17
FUNCTION = b"bench"


def packet(kind: int, body: bytes = b"") -> bytes:
    """What a client or a worker sends."""
    return _HEADER.pack(b"\0REQ", kind, len(body)) + body


def frame_length(data: bytes, position: int) -> int:
    """The length of the packet at `position`; 0 if its header is not complete."""
    if len(data) - position < _HEADER_BYTES:
        return 0
    return _HEADER_BYTES + int.from_bytes(data[position + 8 : position + 12], "big")


def kind_of(head: bytes) -> int:
    """The packet's type."""
    return int.from_bytes(head[4:8], "big")


def id_at(head: bytes) -> int:
    """Where the id begins in a WORK_COMPLETE, after the name that gearmand has for the job."""
    return head.index(0, _HEADER_BYTES) + 1


class GearmanClient(Client):
    """A connection that submits jobs and waits for their ends."""

    def __init__(self, number: int, recorder: Recorder, in_flight: int, payload_bytes: int) -> None:
        """Client `number` (from 0), with `in_flight` jobs of `payload_bytes` each."""
        job = packet(SUBMIT_JOB, FUNCTION + b"\0\0" + bytes(payload_bytes))
        at = _HEADER_BYTES + len(FUNCTION) + 2
        batch = Batch(job[:at], job[at + ID_BYTES :])
        opening = packet(ECHO_REQ, b"ready")
        super().__init__(f"Gearman client {number}", recorder, opening, frame_length, in_flight=in_flight, batch=batch)

    def data_received(self, data: bytes) -> None:
        """JOB_CREATED, which says nothing, and WORK_COMPLETE."""
        now = perf_counter_ns()
        places = bytearray()
        for head in self.framing.feed(data):
            if self._ends_job(head):
                places.append(head[id_at(head)])
        self.finished(bytes(places), now)

    def _ends_job(self, head: bytes) -> bool:
        """Whether this packet is a job's good end; anything that is not as it should be ends the run."""
        kind = kind_of(head)
        if kind == ECHO_RES:
            self.set_ready()
        elif kind not in (WORK_COMPLETE, JOB_CREATED):
            self.fail(f"packet type {kind}: {head[_HEADER_BYTES:]!r}")
        return kind == WORK_COMPLETE


class GearmanWorker(Worker):
    """A connection that grabs jobs, `capacity` of them at once."""

    def __init__(self, number: int, recorder: Recorder, capacity: int, payload_bytes: int) -> None:
        """Worker `number` (from 0), whose results have `payload_bytes`."""
        opening = packet(CAN_DO, FUNCTION) + packet(ECHO_REQ, b"ready")
        super().__init__(f"Gearman worker {number}", recorder, opening, frame_length, batch=Batch(b"", b""))
        self._capacity = capacity
        self._asked = 0
        self._rest = bytes(payload_bytes - ID_BYTES)

    def data_received(self, data: bytes) -> None:
        """Jobs, and that there are none, and that there are some again."""
        out: list[bytes] = []
        for head in self.framing.feed(data):
            kind = kind_of(head)
            if kind == JOB_ASSIGN:
                handle_end = head.index(0, _HEADER_BYTES) + 1
                at = handle_end + len(FUNCTION) + 1
                out.append(packet(WORK_COMPLETE, head[_HEADER_BYTES:handle_end] + head[at : at + ID_BYTES] + self._rest))
                self._asked -= 1
                self._ask(out)
            elif kind == NO_JOB:
                self._asked -= 1
                if not self._asked:
                    out.append(packet(PRE_SLEEP))
            elif kind == NOOP:
                self._ask(out)
            elif kind == ECHO_RES:
                self.set_ready()
                self._ask(out)
            else:
                self.fail(f"packet type {kind}: {head[_HEADER_BYTES:]!r}")
        if out:
            self.transport.writelines(out)

    def _ask(self, out: list[bytes]) -> None:
        """Ask for as many jobs as there are slots that nothing was asked for."""
        out += [packet(GRAB_JOB)] * (self._capacity - self._asked)
        self._asked = self._capacity
