"""A client in a process of its own that is killed and started again: `python -m tests.process.row_reader JSON`.

The JSON object says `url`, and `notes`: a file in which it writes down what it must know of when it is started again. Each line is
a JSON array: `["sent", cookie]` before a job is sent, `["chunk", cookie, number]` or `["gap", cookie, first, last]` for progress,
and `["over", cookie, code]` for an outcome, which is acknowledged only then. What it finds there it attaches to, after the last
chunk that was noted. With `jobs`, it sends so many, of `chunks` and `chunk_bytes` each. It says `["began", n]` when all are sent or
attached to, and `["over"]` when it has an outcome of each; `["fault", …]` is what must not be."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import meta_of
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.protocol.frames import Frame
from tests import attentive
from tests.process.streams import Reader
from tests.raw_peers import connect


def say(*what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


HALF = " (half a line)\n"
"""What ends a line of which a process that was killed had written a part."""


def noted(notes: Path) -> list[list[Any]]:
    """The whole lines of a file. The last one may be half written, and others may have been."""
    lines = notes.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n") and not line.endswith(HALF)]


class Noting(Reader):
    """A reader that writes down what it takes before it says that it has."""

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self._notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._acknowledged = 0

    def note(self, *what: object) -> None:
        os.write(self._notes, (json.dumps(what) + "\n").encode())

    def end_half_a_line(self) -> None:
        os.write(self._notes, HALF.encode())

    def took(self, frame: Frame) -> None:
        kind, cookie, raw, code, _, number, _ = frame
        if kind == PacketType.RESULT:
            self.note("over", cookie.hex(), code)
            self._acknowledged += 1
            self.send(packets.ack(self._acknowledged))
        elif code == Code.GAP:
            self.note("gap", cookie.hex(), schemas.chunk_meta(meta_of(raw)).first, number)
        else:
            self.note("chunk", cookie.hex(), number)
        if self.faults:
            say("fault", *self.faults)


async def main() -> None:
    given = json.loads(sys.argv[1])
    notes = Path(given["notes"])
    lines = noted(notes) if notes.exists() else []
    reader = await connect(given["url"], Noting(notes))
    if notes.stat().st_size and not notes.read_bytes().endswith(b"\n"):
        reader.end_half_a_line()
    await reader.hello()
    last: dict[bytes, int] = {}
    for what, cookie, *numbers in lines:
        if what == "over":
            last.pop(bytes.fromhex(cookie), None)
        else:
            last[bytes.fromhex(cookie)] = numbers[-1] if numbers else 0
    for number, (cookie, chunk) in enumerate(last.items(), 1):
        reader.go_on(cookie, chunk, number=number)
    for _ in range(given.get("jobs", 0)):
        cookie = os.urandom(16)
        reader.note("sent", cookie.hex())
        last[cookie] = 0
        reader.stream(given["chunks"], given["chunk_bytes"], cookie=cookie)
    say("began", len(last))
    await attentive.until(lambda: reader.results.keys() >= last.keys() or reader.is_lost, "an outcome did not come", 60.0)
    await reader.ping()
    say("over")
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    attentive.run(main())
