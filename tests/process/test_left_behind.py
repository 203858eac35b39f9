"""What a test leaves behind that fails in the middle: nothing, or its sockets and pipes are found open in some later test."""

import asyncio
import gc
import warnings
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.rows import ServeProcess, broker_process, nursery, read, send
from tests.raw_peers import HELLO, RawClient, connect, hang_up

pytestmark = pytest.mark.process

PEERS = 20
TURNS = 12
"""So many turns of its loop after it has begun, a connection is there."""


class Failed(Exception):
    """The test failed."""


@pytest.fixture(autouse=True)
def only_ours() -> Iterator[None]:
    """What is collected is what these tests leave behind, and not, again and again, all that the tests before them have made."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def found_open(test: Callable[[], Coroutine[Any, Any, None]]) -> list[str]:
    """What is found open once the loop of a test that fails has been closed."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with pytest.raises(Failed):
            asyncio.run(test())
        gc.collect()
    return [str(warning.message) for warning in found]


def test_peers_that_were_connecting_when_a_test_failed(tmp_path: Path) -> None:
    places = ("--clients", "tcp://127.0.0.1:0", "--workers", f"unix://{tmp_path}/workers.sock", "--log-level", "error")
    with ServeProcess(tmp_path / "log", *places) as serve:
        for url in (serve.clients, serve.workers):
            for turns in range(TURNS):

                async def test(url: str = url, turns: int = turns) -> None:
                    try:
                        connecting = asyncio.gather(*(connect(url, RawClient()) for _ in range(PEERS)))
                        for _ in range(turns):
                            await asyncio.sleep(0)
                        raise Failed(f"while {connecting}")
                    finally:
                        await hang_up()

                assert found_open(test) == [], f"failed {turns} turns after it began to connect"
        serve.stop()


@pytest.mark.parametrize("reached", [False, True])
def test_processes_that_were_to_be_killed_when_a_test_failed(reached: bool) -> None:
    """They hold a pipe of the nursery, so that none of them is left once that has been read to its end."""

    async def test() -> None:
        async with broker_process() as broker, nursery() as peers:
            tiny = [peers.peer(broker.workers[0], send(HELLO), read(1 if reached else 100)) for _ in range(PEERS)]
            if reached:
                await asyncio.gather(*(peer.reached() for peer in tiny))
            raise Failed

    assert found_open(test) == []
