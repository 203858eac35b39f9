"""The demo's worker: what `reasonchip-broker worker reasonchip_broker.cli.demo.jobs` serves."""

import asyncio

from reasonchip_broker.cli.demo.findings import FileFindings, PackageFindings, TreeFindings
from reasonchip_broker.cli.demo.measure import measure
from reasonchip_broker.cli.demo.terms import add_files, add_packages, characteristic
from reasonchip_broker.worker import Worker

worker = Worker(capacity=2)


@worker.pipeline("demo.measure")
def measure_file(root: bytes, path: bytes) -> FileFindings:
    """One file: tokenised, measured, its commonest terms."""
    found = measure(root, path)
    found.worker = worker.name
    return found


@worker.pipeline("demo.merge")
def merge_files(package: str, files: list[FileFindings]) -> PackageFindings:
    """Files of one package, added up."""
    return add_files(package, files)


@worker.pipeline("demo.combine")
def combine_packages(parts: list[PackageFindings]) -> TreeFindings:
    """All packages, added up."""
    return add_packages(parts)


@worker.pipeline("demo.characterise")
def characterise(terms: dict[str, int], documents: dict[str, int], files: int, most: int) -> list[str]:
    """The terms that set one package apart from all others."""
    return characteristic(terms, documents, files, most)


@worker.pipeline("demo.ponder")
async def ponder(seconds: float) -> None:
    """Deliberately long: there to be cancelled."""
    await asyncio.sleep(seconds)
