"""What every test shares: how hypothesis searches, the event loop, and a line that says which core is under test.

The steady profile has no deadline, since machines are shared and a slow moment is not a defect, and is derandomised, so that a
change is judged by itself and not by the day's luck. `make test ARGS=--hypothesis-profile=search` looks where nobody has looked.
"""

from importlib.util import find_spec

from hypothesis import settings

from tests.attentive import AttentiveLoop

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
