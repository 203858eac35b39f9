import asyncio
import gc
import logging

import pytest

from reasonchip_broker.broker import Broker
from reasonchip_broker.cli import serve
from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.cli.settings import DEFAULTS, Settings, layered
from reasonchip_broker.errors import InternalError


@pytest.fixture(autouse=True)
def this_process_as_it_was():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    gc.unfreeze()
    gc.enable()


def settings(tmp_path):
    said = Settings(clients=[f"unix://{tmp_path}/c.sock"], workers=[f"unix://{tmp_path}/w.sock"], log_level="error")
    return layered(said, DEFAULTS)


async def test_a_broker_whose_tables_disagree_is_stopped_and_the_exit_code_says_so(monkeypatch, tmp_path):
    class Doubtful(Broker):
        async def start(self):
            await super().start()
            self.failure = InternalError("tables disagree")
            asyncio.get_running_loop().call_soon(self.failed.set)

    monkeypatch.setattr(serve, "Broker", Doubtful)
    assert await serve._serve(settings(tmp_path), exposed=False, as_json=False) == Exit.BUG
    assert list(tmp_path.iterdir()) == []


async def test_a_stdout_that_is_gone_leaves_nothing_behind(monkeypatch, tmp_path):
    def gone(line):
        raise BrokenPipeError

    monkeypatch.setattr(serve, "emit", gone)
    with pytest.raises(BrokenPipeError):
        await serve._serve(settings(tmp_path), exposed=False, as_json=False)
    assert list(tmp_path.iterdir()) == []


async def test_the_cyclic_collector_is_off_once_it_serves(monkeypatch, tmp_path):
    seen = []

    def look(line):
        seen.append((line.split()[0], gc.isenabled(), gc.get_freeze_count() > 0))
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)

    monkeypatch.setattr(serve, "emit", look)
    with pytest.raises(asyncio.CancelledError):
        await serve._serve(settings(tmp_path), exposed=False, as_json=False)
    assert seen == [("ready", False, True)]
