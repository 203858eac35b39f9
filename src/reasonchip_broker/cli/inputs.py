"""Input for a running job, from the lines of stdin."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator

READ_BYTES = 64 * 1024
LINE_BYTES_MAX = 64 * 1024 * 1024
"""A longer line is more than any frame holds: it is cut, and the broker's refusal of the parts is told."""

STDIN = 0


async def lines_of_stdin() -> AsyncGenerator[list[str], None]:
    """The lines of stdin as they come, those that came together in one list; without their ends, and without empty ones.

    A thread reads, past Python's buffers, and only when the last lines were taken. Nobody waits for it: it may wait for a line when the
    command ends. (An event loop would make a terminal non-blocking, for whoever else has it too.)
    """
    loop = asyncio.get_running_loop()
    asked = threading.Semaphore(0)
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def read() -> None:
        data: bytes | None = b""
        while data is not None:
            asked.acquire()
            try:
                data = os.read(STDIN, READ_BYTES) or None
            except OSError:
                data = None
            try:
                loop.call_soon_threadsafe(queue.put_nowait, data)
            except RuntimeError:
                return  # The loop is closed: the command has ended meanwhile.

    threading.Thread(target=read, name="stdin", daemon=True).start()
    rest = b""
    while True:
        asked.release()
        data = await queue.get()
        whole, _, rest = (rest + data).rpartition(b"\n") if data is not None else (rest, b"", b"")
        if len(rest) > LINE_BYTES_MAX:
            whole, rest = rest, b""
        lines = [line.decode("utf-8", "replace").rstrip("\r") for line in whole.split(b"\n")]
        if lines := [line for line in lines if line]:
            yield lines
        if data is None:
            return
