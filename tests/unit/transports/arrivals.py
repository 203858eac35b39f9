"""Peers that come at a bad moment."""

import asyncio
import gc
import socket
import warnings

from reasonchip_broker.testing.transport_peers import Recorder
from reasonchip_broker.transports.server_transport import ServerTransport

DEADLINE_S = 10.0


async def stopped_as_somebody_comes(
    transport: ServerTransport, recorder: Recorder, address: str | tuple[str, int], turns: int
) -> None:
    """Stop a listener so many turns of the loop after a peer has come, which the kernel has let in. It is announced, or hung up on."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as peer, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        peer.settimeout(DEADLINE_S)
        peer.connect(address)
        for _ in range(turns):
            await asyncio.sleep(0)
        await transport.stop()
        announced = recorder.connections[:]
        for connection in announced:
            assert connection._transport is not None
            connection._transport.abort()
        await recorder.until(lambda: recorder.count("closed") == len(announced), "an end was not told")
        try:
            assert peer.recv(1) == b""
        except ConnectionResetError:
            pass
        assert recorder.connections == announced
        gc.collect()
    # A socket that nobody has is closed by the collector, which says so.
    assert [str(warning.message) for warning in caught] == []
