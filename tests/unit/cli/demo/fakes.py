"""A client whose jobs end as a test says."""

import asyncio
from types import SimpleNamespace
from uuid import UUID

from reasonchip_broker.client import Answer
from reasonchip_broker.errors import JobCancelled
from reasonchip_broker.protocol.codes import Code


class FakeJob:
    def __init__(self, number, outcome):
        self.cookie = UUID(int=number)
        self.over = asyncio.get_running_loop().create_future()
        if isinstance(outcome, Exception):
            self.over.set_exception(outcome)
        elif outcome is not None:
            self.over.set_result(outcome)

    def __await__(self):
        return self.over.__await__()

    async def cancel(self, why=""):
        self.over.set_exception(JobCancelled(why))
        return Answer(Code.CANCELLING, "asked")


class FakeClient:
    """`outcomes`: what the next jobs end with, one after the other; None for one that does not end."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.sent = []

    def submit(self, pipeline, variables):
        job = FakeJob(len(self.sent) + 1, self.outcomes.pop(0) if self.outcomes else None)
        self.sent.append((pipeline, variables, job))
        return job


class FakeChildren:
    """Processes that only say that they live."""

    def __init__(self, names):
        self.children = {name: self._child(number) for number, name in enumerate(names)}
        self.on_kill = lambda: None

    def _child(self, number):
        return SimpleNamespace(alive=True, process=SimpleNamespace(pid=1000 + number))

    async def kill(self, name):
        self.children[name].alive = False
        self.on_kill()

    async def start_worker(self, name, target, url, capacity):
        self.children[name] = child = self._child(len(self.children))
        return child
