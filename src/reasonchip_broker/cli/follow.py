"""Progress of a job, printed as it comes."""

import sys
from typing import Any

from reasonchip_broker.cli.output import emit_aside, json_text, note
from reasonchip_broker.cli.text import printable_lines
from reasonchip_broker.client import Gap, Job, NewAttempt
from reasonchip_broker.errors import RemoteProtocolError

CHUNKS_AT_ONCE = 64
"""Chunks that are there already and are written in one go."""


async def follow(job: Job, *, first: int = 1, as_json: bool) -> None:
    """Print each chunk of a job's progress, from number `first` on, until the job is over. Raises what the job ends with, unless that
    is a result.
    """
    chunks = job.chunks()
    printer = Printer(first, as_json=as_json, on_terminal=sys.stdout.isatty())
    while True:
        try:
            items = await chunks.take(CHUNKS_AT_ONCE)
        except RemoteProtocolError as error:
            note(str(error))
            printer.number = job.last_chunk
            continue
        if not items:
            return
        for item in items:
            remark = printer.add(item)
            if remark:
                await printer.flush()
                note(remark)
        await printer.flush()


class Printer:
    """Writes chunks: a text as it is, bytes as they are, anything else as JSON; or each as a line of JSON with its number."""

    def __init__(self, first: int, *, as_json: bool, on_terminal: bool) -> None:
        self.number = first - 1
        """That of the last chunk."""
        self._attempt = 1
        self._as_json = as_json
        self._on_terminal = on_terminal
        self._pending: list[bytes] = []

    def add(self, item: Any) -> str:
        """Take what a job's iterator gave. Returns what is to be said about it on stderr, if anything, after what stands before it."""
        if isinstance(item, NewAttempt):
            self._attempt = item.attempt
            return "" if self._as_json else f"attempt {item.attempt}:"
        if isinstance(item, Gap):
            return self._add_gap(item)
        self.number += 1
        if self._as_json:
            self._add_line(json_text({"progress": self.number, "attempt": self._attempt, "value": item}))
        elif isinstance(item, str):
            self._add_line(printable_lines(item) if self._on_terminal else item)
        elif not isinstance(item, bytes):
            self._add_line(json_text(item))
        elif self._on_terminal:
            return f"progress {self.number} is {len(item)} bytes: redirect stdout to a file to have them"
        else:
            self._pending.append(item)
        return ""

    async def flush(self) -> None:
        """Write what was added."""
        pending, self._pending = b"".join(self._pending), []
        if pending:
            await emit_aside(pending)

    def _add_gap(self, gap: Gap) -> str:
        self.number = gap.last
        if self._as_json:
            self._add_line(json_text({"gap": [gap.first, gap.last]}))
            return ""
        numbers = str(gap.first) if gap.first == gap.last else f"{gap.first} to {gap.last}"
        return f"progress {numbers} is missing, and will not come"

    def _add_line(self, text: str) -> None:
        self._pending.append(f"{text}\n".encode("utf-8", "surrogateescape"))
