"""The peers of each protocol, by the system that is measured."""

from collections.abc import Callable

from benchmarks.generators.closed_loop import Client, Worker
from benchmarks.generators.json_v0 import JsonClient, JsonWorker
from benchmarks.generators.nats import NatsClient, NatsWorker
from benchmarks.generators.ours import OurClient, OurWorker
from benchmarks.generators.recorder import Recorder
from benchmarks.generators.spec import Spec
from benchmarks.workloads import System

_WORKERS: dict[System, Callable[[int, Recorder, int, int], Worker]] = {
    System.BINARY: OurWorker,
    System.JSON: JsonWorker,
    System.NATS: NatsWorker,
}


def make_client(spec: Spec, number: int, recorder: Recorder) -> Client:
    """Client `number` of the run that `spec` describes."""
    if spec.system is System.BINARY:
        return OurClient(number, recorder, spec.in_flight, spec.payload_bytes, acks=spec.acks)
    kind = JsonClient if spec.system is System.JSON else NatsClient
    return kind(number, recorder, spec.in_flight, spec.payload_bytes)


def make_worker(spec: Spec, number: int, recorder: Recorder) -> Worker:
    """Worker `number` of the run that `spec` describes."""
    return _WORKERS[spec.system](number, recorder, spec.capacity, spec.payload_bytes)
