"""The peers of each protocol, by the system that is measured."""

from collections.abc import Callable

from benchmarks.generators.amqp import AmqpClient, AmqpWorker
from benchmarks.generators.closed_loop import Client, Worker
from benchmarks.generators.gearman import GearmanClient, GearmanWorker
from benchmarks.generators.json_v0 import JsonClient, JsonWorker
from benchmarks.generators.nats import NatsClient, NatsWorker
from benchmarks.generators.ours import OurClient, OurWorker
from benchmarks.generators.recorder import Recorder
from benchmarks.generators.redis import RedisClient, RedisWorker
from benchmarks.generators.relay import RelayedClient, RelayedWorker
from benchmarks.generators.spec import Spec
from benchmarks.workloads import System

_WORKERS: dict[System, Callable[..., Worker]] = {
    System.BINARY: OurWorker,
    System.COMPILED: OurWorker,
    System.JSON: JsonWorker,
    System.NATS: NatsWorker,
    System.RELAY: RelayedWorker,
    System.GEARMAN: GearmanWorker,
    System.REDIS: RedisWorker,
    System.RABBITMQ: AmqpWorker,
}
_CLIENTS: dict[System, Callable[..., Client]] = {
    System.JSON: JsonClient,
    System.NATS: NatsClient,
    System.RELAY: RelayedClient,
    System.GEARMAN: GearmanClient,
    System.REDIS: RedisClient,
    System.RABBITMQ: AmqpClient,
}


def make_client(spec: Spec, number: int, recorder: Recorder) -> Client:
    """Client `number` of the run that `spec` describes."""
    if spec.system not in _CLIENTS:
        return OurClient(number, recorder, spec.in_flight, spec.payload_bytes, acks=spec.acks, pipeline=spec.pipeline)
    return _CLIENTS[spec.system](number, recorder, spec.in_flight, spec.payload_bytes, **_pipeline(spec))


def make_worker(spec: Spec, number: int, recorder: Recorder) -> Worker:
    """Worker `number` of the run that `spec` describes."""
    return _WORKERS[spec.system](number, recorder, spec.capacity, spec.payload_bytes, **_pipeline(spec))


def _pipeline(spec: Spec) -> dict[str, str]:
    """Named to those alone of which two generators are put at one broker; the relay's peers need none."""
    return {"pipeline": spec.pipeline} if spec.system in (System.BINARY, System.COMPILED, System.NATS) else {}
