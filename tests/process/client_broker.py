"""A broker in a process of its own, for tests of clients that kill it: `python client_broker.py CLIENTS WORKERS [HEARTBEAT_S]`.

Prints where it listens, in one line, once it does. With `echo` for WORKERS it brings a worker along that answers each job with its
variables, or, for a job called `hold`, not at all.
"""

import asyncio
import sys

from reasonchip_broker.broker import Broker
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import Packet
from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.transports.endpoints import server_transport
from tests.unit.client.ends import StubWorker, echo


def answer(worker: StubWorker, run: Packet) -> None:
    """Echo, except for the jobs that are to hang."""
    if schemas.run_options(run.meta).p != "hold":
        echo(worker, run)


async def serve(clients: str, workers: str, heartbeat_s: float) -> None:
    limits = Limits(heartbeat_s=heartbeat_s, lease_s=3 * heartbeat_s)
    own = workers == "echo"
    worker_url = "memory://workers" if own else workers
    broker = Broker([server_transport(clients, Role.CLIENT)], [server_transport(worker_url, Role.WORKER)], limits=limits)
    await broker.start()
    if own:
        await StubWorker(answer, capacity=1000).connect(worker_url)
    print(broker.client_urls[0], broker.worker_urls[0], flush=True)  # noqa: T201  it is what the test reads
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 10.0))
