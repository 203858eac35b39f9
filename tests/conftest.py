"""What every test shares: how hypothesis searches, the event loop, and a line that says which core is under test.

The steady profile has no deadline, since machines are shared and a slow moment is not a defect, and is derandomised, so that a
change is judged by itself and not by the day's luck. `make test ARGS=--hypothesis-profile=search` looks where nobody has looked.
"""

import gc
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec

import pytest
from hypothesis import settings

from reasonchip_broker.transports.endpoints import DEFAULT_PORTS
from tests.attentive import AttentiveLoop
from tests.unit.switchboard.interpreted import IS_COMPILED

settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile("steady")


def pytest_asyncio_loop_factories() -> dict[str, type[AttentiveLoop]]:
    """Which loop an asynchronous test runs in."""
    return {"attentive": AttentiveLoop}


def pytest_report_header() -> str:
    """Whether this run tests the sources or the wheel of `make test-compiled`; both must pass."""
    spec = find_spec("reasonchip_broker.switchboard")
    return f"core: {spec.origin if spec else 'not built yet'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs an interpreted core where the compiled one is under test."""
    if IS_COMPILED:
        left_out = [item for item in items if item.get_closest_marker("needs_interpreted_core") is not None]
        items[:] = [item for item in items if item.get_closest_marker("needs_interpreted_core") is None]
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What pytest made of thousands of tests stays until the end: Python's collector need not look through it all the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _default_ports_are_given_to_nobody() -> Iterator[None]:
    """The default ports are among those that the system gives to whoever asks for any. A socket that is bound to one and does not
    listen keeps it from that, and lets a broker listen there that was told to."""
    with ExitStack() as held:
        for port in DEFAULT_PORTS.values():
            for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                try:
                    keeper = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
                    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        keeper.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    keeper.bind((address, port))
                except OSError:
                    # Somebody has it, or there is no IPv6: the test that needs it will tell.
                    continue
        yield
