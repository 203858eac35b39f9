"""Row 2 of failures.md: a client's process is killed and started again, within the retention. By the cookies that it has written down
it fetches every outcome, and goes on with every stream after the last chunk that it had; what is no longer there is announced."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from reasonchip_broker.protocol.codes import Code
from tests.process.row_reader import Noting, noted
from tests.process.rows import broker_process, peer_process
from tests.process.streams import Streamer
from tests.raw_peers import connect

pytestmark = pytest.mark.process

KILLS = 6
JOBS = 20
CHUNKS = 600
CHUNK_BYTES = 4096


LINE_BYTES = 50
"""At least; a cookie is most of it."""


def notes_that_grow(notes: Path, lines: int) -> Callable[[], bool]:
    """Whether about so many lines have been added since now."""
    before = notes.stat().st_size
    return lambda: notes.stat().st_size >= before + lines * LINE_BYTES


async def test_row_2_a_client_killed_and_started_again_fetches_every_outcome_and_resumes_every_stream(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Killed again and again in the middle of its streams, each time after as much as chance will have it."""
    notes = tmp_path / "notes"
    chance = random.Random(2)
    async with broker_process() as broker:
        streamer = await connect(broker.workers[0], Streamer())
        await streamer.register(2 * JOBS)
        for number in range(KILLS):
            more = {"jobs": JOBS // 2, "chunks": CHUNKS, "chunk_bytes": CHUNK_BYTES} if number < 2 else {}
            async with peer_process("row_reader", url=broker.clients[0], notes=str(notes), **more) as reader:
                assert (await reader.says())[0] == "began"
                async with asyncio.timeout(30):
                    grown = notes_that_grow(notes, chance.randrange(1, JOBS * CHUNKS // KILLS))
                    said = asyncio.create_task(reader.says())
                    while not grown() and not said.done():
                        await streamer.ping()
                    assert not said.done() or said.result() == ["over"], said.result()
                    said.cancel()
            # While nobody reads, the worker is not held back: rings are overwritten, and jobs end that nobody hears of.
            await broker.becomes(lambda state: state["connections"] == 1, "the killed client is still there")
        async with peer_process("row_reader", url=broker.clients[0], notes=str(notes)) as reader:
            assert (await reader.says())[0] == "began"
            assert await reader.says() == ["over"]
        state = await broker.state()
        assert (state["jobs"], state["free"], state["counters"]["finished"]) == (0, 2 * JOBS, JOBS)
    lines = noted(notes)
    assert Counter(line[0] for line in lines)["sent"] == JOBS
    streams: dict[str, list[range]] = defaultdict(list)
    for what, cookie, *numbers in lines:
        if what in ("chunk", "gap"):
            streams[cookie].append(range(numbers[0], numbers[-1] + 1))
    outcomes = Counter((line[1], line[2]) for line in lines if line[0] == "over")
    assert outcomes == {(cookie, Code.OK): 1 for cookie in streams}
    assert len(streams) == JOBS
    for cookie, seen in streams.items():
        assert [number for piece in seen for number in piece] == list(range(1, CHUNKS + 1)), cookie
    record_property("chunks", sum(line[0] == "chunk" for line in lines))
    record_property("announced gaps", sum(line[0] == "gap" for line in lines))


async def test_a_note_of_which_half_was_written_is_none_however_many_follow(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    for half in ('["chunk", "ab', "[", '["chunk", "ab", 3]'):
        notes.write_text(f'["sent", "ab"]\n{half}')
        assert noted(notes) == [["sent", "ab"]]
        reader = Noting(notes)
        reader.end_half_a_line()
        reader.note("chunk", "ab", 4)
        assert noted(notes) == [["sent", "ab"], ["chunk", "ab", 4]]
