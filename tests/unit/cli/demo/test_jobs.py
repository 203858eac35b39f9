import asyncio

import pytest

from reasonchip_broker.cli.demo import jobs
from reasonchip_broker.cli.demo.findings import FileFindings


def test_every_job_of_the_demo_is_served():
    assert jobs.worker.pipelines == ["demo.measure", "demo.merge", "demo.combine", "demo.characterise", "demo.ponder"]


def test_from_a_file_to_the_terms_of_its_package(tmp_path):
    (tmp_path / "a.py").write_text("def open_socket(socket):\n    return socket\n")
    (tmp_path / "b.py").write_text("tree = 1\n")
    found = [jobs.measure_file(bytes(tmp_path), name) for name in (b"a.py", b"b.py")]
    assert {file.worker for file in found} == {jobs.worker.name}
    one, two = jobs.merge_files("one", found[:1]), jobs.merge_files("two", found[1:])
    tree = jobs.combine_packages([one, two])
    assert tree.files == 2
    assert jobs.characterise(one.terms, tree.documents, tree.files, 1) == ["socket"]
    assert jobs.merge_files("none", []).files == 0
    assert isinstance(found[0], FileFindings)


async def test_the_long_job_can_be_cancelled():
    task = asyncio.create_task(jobs.ponder(600))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
