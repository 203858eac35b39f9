"""Clients that send each job when it is due, whether others have been answered or not.

A job's latency counts from the moment when it was due: while a broker, or this process, stands still, jobs become due all the same, and
their waiting is counted. A closed loop would not even ask meanwhile (*coordinated omission*). The job's number is part of its id, so
an answer tells when its job was due without a look into a table.
"""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter_ns

from benchmarks.generators.amqp import AmqpClient
from benchmarks.generators.closed_loop import Client
from benchmarks.generators.gearman import GearmanClient, id_at
from benchmarks.generators.nats import NatsClient
from benchmarks.generators.ours import OurClient
from benchmarks.generators.recorder import Recorder
from benchmarks.generators.redis import RedisClient, element
from benchmarks.generators.relay import RelayedClient
from benchmarks.generators.spec import Spec
from benchmarks.workloads import System


class OpenClient(Client):
    """What an open loop adds to a client of any protocol, which says in `number_in` which job an answer ends."""

    first_due_ns = 0
    interval_ns = 1

    def start(self) -> None:
        """What it has to say before the first job is due."""

    def ends_job(self, head: bytes) -> bool:
        """Whether this frame ends a job."""
        raise NotImplementedError

    def number_in(self, head: bytes) -> int:
        """The number of the job that it ends, from 0 on."""
        raise NotImplementedError

    def heard(self, answers: int, size: int, now: int) -> None:
        """So many answers came in a read of `size` bytes."""

    def data_received(self, data: bytes) -> None:
        """Answers, in any order."""
        now = perf_counter_ns()
        numbers = [self.number_in(head) for head in self.framing.feed(data) if self.ends_job(head)]
        self.heard(len(numbers), len(data), now)
        recorder = self.recorder
        recorder.jobs += len(numbers)
        if recorder.recording:
            began, interval = now - self.first_due_ns, self.interval_ns
            recorder.latencies.extend([began - number * interval for number in numbers])

    def submit_due(self, now: int) -> None:
        """Send all jobs that are due and were not sent."""
        due = (now - self.first_due_ns) // self.interval_ns + 1
        new = due - self.count
        if new > 0:
            ids = self.fresh([0] * new, self.count)
            self.count = due
            self.batch.write(self.outgoing or self.transport, ids)


class OpenOurClient(OpenClient, OurClient):
    """A client of our binary protocol."""

    def ends_job(self, head: bytes) -> bool:
        """A RESULT."""
        return self._ends_job(head)

    def number_in(self, head: bytes) -> int:
        """The last half of the cookie."""
        return int.from_bytes(head[16:24], "big")

    def heard(self, answers: int, size: int, now: int) -> None:
        """It acknowledges them."""
        self._acknowledge(answers, size, now)


class OpenRelayedClient(OpenOurClient, RelayedClient):
    """The same, through a relay."""


class OpenNatsClient(OpenClient, NatsClient):
    """A client of NATS."""

    def ends_job(self, head: bytes) -> bool:
        """A message to its inbox."""
        return self._ends_job(head)

    def number_in(self, head: bytes) -> int:
        """The last digits of the subject."""
        return int(head[self._place + 1 : self._place + 10], 16)


class OpenGearmanClient(OpenClient, GearmanClient):
    """A client of gearmand."""

    def ends_job(self, head: bytes) -> bool:
        """WORK_COMPLETE."""
        return self._ends_job(head)

    def number_in(self, head: bytes) -> int:
        """The last part of the id."""
        at = id_at(head) + 1
        return int.from_bytes(head[at : at + 8], "big")


class OpenRedisClient(OpenClient, RedisClient):
    """A client of Redis. It has asked for as many answers in advance as there are slots, and asks for another one with each."""

    def start(self) -> None:
        """Ask for them."""
        self.ask()

    def ends_job(self, head: bytes) -> bool:
        """An element of its list."""
        return self._ends_job(head)

    def number_in(self, head: bytes) -> int:
        """The last part of the id."""
        return int.from_bytes(element(head)[4:12], "big")

    def heard(self, answers: int, size: int, now: int) -> None:
        """It asks for as many again."""
        self.ask_again(answers)


class OpenAmqpClient(OpenClient, AmqpClient):
    """A client of RabbitMQ. Its bodies are of one frame each."""

    def ends_job(self, head: bytes) -> bool:
        """The body of an answer."""
        return bool(self._ended(head))

    def number_in(self, head: bytes) -> int:
        """The last part of the id, with which a body begins."""
        return int.from_bytes(head[8:16], "big")


_CLIENTS: dict[System, Callable[[int, Recorder, int, int], OpenClient]] = {
    System.NATS: OpenNatsClient,
    System.RELAY: OpenRelayedClient,
    System.GEARMAN: OpenGearmanClient,
    System.REDIS: OpenRedisClient,
    System.RABBITMQ: OpenAmqpClient,
}


def make_open_client(spec: Spec, number: int, recorder: Recorder) -> OpenClient:
    """Client `number` of the run that `spec` describes. Its jobs' places are of no use here, so there may be any number of them."""
    if spec.system in _CLIENTS:
        return _CLIENTS[spec.system](number, recorder, spec.in_flight, spec.payload_bytes)
    return OpenOurClient(number, recorder, 1, spec.payload_bytes, acks=spec.acks)


class Clock:
    """Lets clients submit what is due, as often as the loop goes round: it spins, which the generator's core is for."""

    def __init__(self, clients: Sequence[OpenClient], rate: float) -> None:
        """`rate` is in jobs a second, of all clients together; they take turns."""
        self._loop = asyncio.get_running_loop()
        self._clients = clients
        self._running = True
        now = perf_counter_ns()
        for place, client in enumerate(clients):
            client.interval_ns = round(len(clients) * 1e9 / rate)
            client.first_due_ns = now + place * client.interval_ns // len(clients)
        self._tick()

    def stop(self) -> None:
        """Nothing is due any more."""
        self._running = False

    def _tick(self) -> None:
        if self._running:
            now = perf_counter_ns()
            for client in self._clients:
                client.submit_due(now)
            self._loop.call_soon(self._tick)
