"""The demo itself: processes up, files measured, packages merged, processes down."""

import asyncio
import time
from collections import defaultdict
from typing import Any

import msgspec

from reasonchip_broker.cli.demo.crew import Crew
from reasonchip_broker.cli.demo.findings import FileFindings, PackageFindings, TreeFindings
from reasonchip_broker.cli.demo.incidents import CAPACITY, TARGET, Incidents
from reasonchip_broker.cli.demo.outcome import Outcome, finished_by_broker
from reasonchip_broker.cli.demo.progress import Narrator
from reasonchip_broker.cli.demo.survey import Survey
from reasonchip_broker.cli.exits import Exit, Fault
from reasonchip_broker.cli.processes import Children
from reasonchip_broker.client import Client
from reasonchip_broker.errors import JobFailed, ReasonChipError
from reasonchip_broker.protocol.codes import Code

WORKERS = 3
FILES_S_MAX = 35.0
"""When no more files are begun, so that the whole stays below a minute on a slow machine too."""

ALL_S_MAX = 150.0
"""Nothing takes this long unless something hangs."""

FILES_OF_A_MERGE = 100
PACKAGES_CHARACTERISED = 24
TERMS = 6


async def perform(survey: Survey, narrator: Narrator) -> Outcome:
    """Run the demo. Raises Fault if it can't go on; no process is left then, or after it."""
    outcome = Outcome(survey)
    began_at = time.monotonic()
    try:
        async with asyncio.timeout(ALL_S_MAX), Children() as children:
            clients_url, workers_url = await children.start_broker()
            names = [f"worker-{number}" for number in range(1, WORKERS + 1)]
            for name in names:
                await children.start_worker(name, TARGET, workers_url, CAPACITY)
            narrator.say(f"STARTED a broker at {clients_url}, and {', '.join(names)}: {CAPACITY} jobs each at a time")
            await children.guard(_Show(children, clients_url, workers_url, narrator, outcome).run())
            await children.end()
            outcome.counted_by_broker = finished_by_broker(children.children["broker"].log)
    except TimeoutError:
        raise Fault(f"The demo was not over within {ALL_S_MAX:.0f} s, and was ended.", Exit.FAILED) from None
    except ReasonChipError as error:
        raise Fault(f"The demo could not go on: {error}", Exit.FAILED) from error
    outcome.elapsed_s = time.monotonic() - began_at
    return outcome


class _Show:
    def __init__(self, children: Children, clients_url: str, workers_url: str, narrator: Narrator, outcome: Outcome) -> None:
        self._children = children
        self._clients_url = clients_url
        self._workers_url = workers_url
        self._narrator = narrator
        self._outcome = outcome
        self._survey = outcome.survey
        self._root = bytes(self._survey.root)

    async def run(self) -> None:
        async with Client(self._clients_url, name="the demo's client") as client:
            crew = Crew(client, self._outcome.ledger)
            await self._measure(crew)
            await self._merge(crew)

    async def _measure(self, crew: Crew) -> None:
        """A job for each file, and trouble meanwhile."""
        files = self._survey.files
        incidents = Incidents(self._children, self._workers_url, crew, self._narrator, len(files))
        trouble = asyncio.create_task(incidents.happen())
        began_at = time.monotonic()
        self._narrator.phase("files", len(files))

        async def measure(path: bytes) -> None:
            variables = {"root": self._root, "path": path}
            try:
                found = await crew.run_as("file", "demo.measure", variables, FileFindings)
            except JobFailed as error:
                self._outcome.failed.append((path, f"{Code(error.code).name}: {error.args[0]}"))
                worker = ""
            else:
                self._outcome.files.append(found)
                self._outcome.wanted["file"] += 1
                worker = found.worker
            incidents.done(worker)
            self._narrator.advance(worker)

        try:
            async for _ in crew.for_each(files, measure, lambda: time.monotonic() - began_at > FILES_S_MAX or _failed(trouble)):
                pass
            self._outcome.files_s = time.monotonic() - began_at
            incidents.hurry()
            await trouble
        finally:
            trouble.cancel()
            await asyncio.gather(trouble, return_exceptions=True)
        if self._outcome.left_out:
            self._narrator.say(f"after {FILES_S_MAX:.0f} s the remaining {self._outcome.left_out:,} files were left out")

    async def _merge(self, crew: Crew) -> None:
        """Jobs that merge: files into packages, packages into the tree, and what is characteristic of each package."""
        by_package: dict[str, list[FileFindings]] = defaultdict(list)
        for file in sorted(self._outcome.measured, key=lambda file: file.path):
            by_package[self._survey.package_of(file.path)].append(file)
        batches = [
            {"package": package, "files": files[start : start + FILES_OF_A_MERGE]}
            for package, files in sorted(by_package.items())
            for start in range(0, len(files), FILES_OF_A_MERGE)
        ]
        if not batches:
            return
        self._narrator.phase("merges", len(batches) + 1 + min(len(by_package), PACKAGES_CHARACTERISED))

        async def merge(batch: dict[str, Any]) -> PackageFindings:
            part = await crew.run_as("merge", "demo.merge", batch, PackageFindings)
            self._merged()
            return part

        parts = [part async for part in crew.for_each(batches, merge)]
        tree = await crew.run_as("merge", "demo.combine", {"parts": parts}, TreeFindings)
        self._merged()
        self._outcome.packages = sorted(tree.packages, key=lambda package: (-package.lines, package.package))
        await self._characterise(crew, tree)

    async def _characterise(self, crew: Crew, tree: TreeFindings) -> None:
        async def characterise(package: PackageFindings) -> None:
            documents = {term: tree.documents[term] for term in package.terms if term in tree.documents}
            variables = {"terms": package.terms, "documents": documents, "files": tree.files, "most": TERMS}
            terms = msgspec.convert(await crew.run("merge", "demo.characterise", variables), list[str])
            self._outcome.characteristic[package.package] = terms
            self._merged()

        async for _ in crew.for_each(self._outcome.packages[:PACKAGES_CHARACTERISED], characterise):
            pass

    def _merged(self) -> None:
        self._outcome.wanted["merge"] += 1
        self._narrator.advance()


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None
