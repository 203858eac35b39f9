"""Which files the demo works on: Python files if there are any, otherwise all; of a tree too large for a minute, a fair part."""

import os
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import click

from reasonchip_broker.cli.demo.measure import FILE_BYTES_MAX

FILES_MAX = 3_000
BYTES_MAX = 48 * 1024 * 1024
"""What two cores tokenise in well under a minute."""

LOOKED_AT_MAX = 200_000
LOOKING_S_MAX = 5.0
"""Where looking for files ends, however many more there are: somebody may say `INPUT=/`."""

_LEFT_OUT = {b"__pycache__", b"site-packages", b"dist-packages", b"node_modules"}
_PYTHON = (b".py", b".pyi")
_CLOCK_READ_EACH = 100

Item = TypeVar("Item")


@dataclass(frozen=True)
class Survey:
    """What there is to do. `files` are paths below `root`; `found` is how many of their kind there were; `size` is in bytes."""

    root: Path
    files: list[bytes]
    kind: str
    found: int
    size: int
    unreadable: int
    """Folders that could not be looked into."""
    cut_short: bool
    """Whether there may be more files than were looked at."""

    def package_of(self, path: bytes) -> str:
        """The part of the tree that a file belongs to: the first folder in which its path differs from others."""
        head, slash, _ = path[len(self._common) :].partition(b"/")
        return os.fsdecode(head) if slash else "(top level)"

    @cached_property
    def _common(self) -> bytes:
        folders = {os.path.dirname(path) for path in self.files}
        common = os.path.commonpath(folders) if folders else b""
        return common + b"/" if common else b""


def standard_library() -> Path:
    """The source tree of the Python that runs this."""
    return Path(sysconfig.get_paths()["stdlib"])


def survey(root: Path, *, files_max: int = FILES_MAX, bytes_max: int = BYTES_MAX) -> Survey:
    """Choose files below `root`, or `root` itself if it is a file. Raises click.UsageError, saying what is wrong, if there are none."""
    if not root.exists():
        raise click.UsageError(f"There is no {root}: name a folder with files in it.")
    if root.is_file():
        root, found, unreadable, cut_short = root.parent, [os.fsencode(root.name)], 0, False
    else:
        found, unreadable, cut_short = _walk(root)
    python = [path for path in found if path.endswith(_PYTHON)]
    chosen = python or found
    if not chosen:
        hidden = f" ({unreadable} of its folders can't be read)" if unreadable else ""
        raise click.UsageError(f"There are no files in {root}{hidden}: name a folder with files in it.")
    files, size = _affordable(root, sorted(chosen), files_max, bytes_max)
    return Survey(root, files, "Python files" if python else "files", len(chosen), size, unreadable, cut_short)


def _walk(root: Path) -> tuple[list[bytes], int, bool]:
    """Every file below `root` that is not hidden; how many folders could not be read; whether it was cut short."""
    until = time.monotonic() + LOOKING_S_MAX
    found: list[bytes] = []
    errors: list[OSError] = []
    top = os.fsencode(root)
    for turn, (folder, folders, names) in enumerate(os.walk(top, onerror=errors.append)):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not name.startswith(b"."))
        prefix = os.path.relpath(folder, top) + b"/" if folder != top else b""
        found += (prefix + name for name in names if not name.startswith(b"."))
        if len(found) > LOOKED_AT_MAX or (turn % _CLOCK_READ_EACH == 0 and time.monotonic() > until):
            return found, len(errors), True
    return found, len(errors), False


def _affordable(root: Path, files: Sequence[bytes], files_max: int, bytes_max: int) -> tuple[list[bytes], int]:
    """As many of the files as can be measured in time, spread over all of them; and their size in all."""
    chosen = evenly(files, files_max)
    sizes = [_work(root, path) for path in chosen]
    if (total := sum(sizes)) > bytes_max:
        chosen = evenly(chosen, max(1, len(chosen) * bytes_max // total))
        sizes = [_work(root, path) for path in chosen]
    return chosen, sum(sizes)


def _work(root: Path, path: bytes) -> int:
    """How many bytes of a file will be looked at."""
    try:
        size = os.stat(os.path.join(os.fsencode(root), path)).st_size
    except OSError:
        return 0
    return size if size <= FILE_BYTES_MAX else 0


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, at even distances."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]
