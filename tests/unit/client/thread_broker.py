"""A real broker, with a worker that does as it is told, in a thread of its own: the other end for clients that block."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from reasonchip_broker.broker import Broker
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.transports.endpoints import server_transport
from tests.unit.client.ends import DEADLINE_S, Answer, StubWorker, echo

Value = TypeVar("Value")


class ThreadBroker:
    """The broker and its one worker; `url` is for clients."""

    def __init__(self, loop: asyncio.AbstractEventLoop, broker: Broker, worker: StubWorker) -> None:
        self.url = broker.client_urls[0]
        self.broker = broker
        self.worker = worker
        self._loop = loop

    def wait(self, work: Coroutine[Any, Any, Value]) -> Value:
        """What a coroutine in the broker's thread returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    def next_run(self) -> Packet:
        return self.wait(self.worker.next_run())

    def next_cancel(self) -> Packet:
        return self.wait(self.worker.next_cancel())

    def succeed(self, run: Packet, value: object) -> None:
        self._loop.call_soon_threadsafe(self.worker.succeed, run, value)


@contextmanager
def thread_broker(answer: Answer = echo, capacity: int = 64, worker: type[StubWorker] = StubWorker) -> Iterator[ThreadBroker]:
    """Start one, and stop it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="broker of a test")
    thread.start()

    async def start() -> tuple[Broker, StubWorker]:
        broker = Broker(
            [server_transport("tcp://127.0.0.1:0", Role.CLIENT)], [server_transport("tcp://127.0.0.1:0", Role.WORKER)]
        )
        await broker.start()
        return broker, await worker(answer, capacity).connect(broker.worker_urls[0])

    try:
        ends = ThreadBroker(loop, *asyncio.run_coroutine_threadsafe(start(), loop).result(DEADLINE_S))
        try:
            yield ends
        finally:
            ends.wait(ends.broker.stop())
            ends.wait(ends.worker.gone.wait())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()
