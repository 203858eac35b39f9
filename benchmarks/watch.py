"""Waiting for what other programs do to files, without looking again and again.

Linux tells of changes in a folder through a descriptor (inotify, see its manual page). Python's library has nothing for it, and what is
needed of it is three calls of the C library.
"""

import ctypes
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

_CHANGES = 0x2 | 0x8 | 0x80 | 0x100
"""IN_MODIFY, IN_CLOSE_WRITE, IN_MOVED_TO and IN_CREATE: something was written, or has got its name."""

_READ_BYTES = 65_536


class Watch:
    """A folder that is watched in a `with` block. Raises OSError if it can't be."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._changes: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._changes < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if libc.inotify_add_watch(self._changes, os.fsencode(folder), _CHANGES) < 0:
            error = ctypes.get_errno()
            os.close(self._changes)
            raise OSError(error, os.strerror(error), str(folder))

    def until(self, holds: Callable[[], bool], timeout_s: float, pid: int | None = None) -> bool:
        """Look whether something holds, now and after each change in the folder. Returns False if `timeout_s` pass before it does, or
        if process `pid` has ended and it does not hold then either."""
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._changes, select.POLLIN)
        try:
            ended = os.pidfd_open(pid) if pid is not None else None
        except ProcessLookupError:
            return holds()
        try:
            if ended is not None:
                poll.register(ended, select.POLLIN)
            while not holds():
                happened = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
                if not any(descriptor == self._changes for descriptor, _ in happened):
                    return holds()
                # What it tells is only that there is something to look at: whatever happens from here on is told anew.
                os.read(self._changes, _READ_BYTES)
            return True
        finally:
            if ended is not None:
                os.close(ended)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._changes)
