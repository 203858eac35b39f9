"""What somebody costs others, measured with and without it in turn: for row 19 of failures.md."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.process.rows import BrokerProcess, percentile
from tests.raw_peers import RawClient, RawPeer

ECHOES = 300


async def p99_of(client: RawClient) -> float:
    """The p99 of a job's round trip, in seconds."""
    loop = asyncio.get_running_loop()
    taken = []
    for _ in range(ECHOES):
        began = loop.time()
        await client.echo()
        taken.append(loop.time() - began)
    client.frames.clear()
    client.heard.clear()
    return percentile(taken, 0.99)


async def p99_ratios(
    broker: BrokerProcess, client: RawClient, pairs: int, disturb: Callable[[], Awaitable[RawPeer]]
) -> list[float]:
    """Of so many pairs: the client's p99 with a peer that disturbs it, by its p99 without one. Which of them is first, alternates."""
    connections = (await broker.state())["connections"]
    ratios = []
    for pair in range(pairs):
        p99 = {}
        for is_disturbed in (True, False) if pair % 2 else (False, True):
            peer = await disturb() if is_disturbed else None
            await p99_of(client)  # what its coming has stirred up is not to be measured
            p99[is_disturbed] = await p99_of(client)
            if peer is not None:
                assert not peer.is_lost, "it was let go before it was measured"
                peer.live.abort()
                await broker.becomes(lambda state: state["connections"] == connections, "who was let go is still there")
        ratios.append(p99[True] / p99[False])
    return ratios
