"""Telling how the demo goes, on stderr: live on a terminal, line by line otherwise."""

import time
from abc import ABC, abstractmethod
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from reasonchip_broker.cli.output import note
from reasonchip_broker.cli.text import printable

TELL_EACH_S = 1.0
"""How often it is told how far it is, where there is no terminal."""


class Narrator(ABC):
    """What the demo tells while it runs. It is a context manager, in which it may have the terminal to itself."""

    def __init__(self) -> None:
        self.began_at = time.monotonic()
        self.workers: Counter[str] = Counter()
        """Files measured, by worker."""
        self.gone: set[str] = set()
        """Workers that are no more."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    @abstractmethod
    def say(self, line: str) -> None:
        """Something happened."""

    @abstractmethod
    def phase(self, name: str, total: int) -> None:
        """So many things are to be done next."""

    @abstractmethod
    def advance(self, worker: str = "") -> None:
        """One of them is done, by this worker."""


class PlainNarrator(Narrator):
    """Lines: each thing that happens, and now and then how far it is."""

    def __init__(self) -> None:
        super().__init__()
        self._name = ""
        self._done = self._total = 0
        self._told_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def say(self, line: str) -> None:
        """One line, and when."""
        note(f"{time.monotonic() - self.began_at:5.1f} s  {line}")

    def phase(self, name: str, total: int) -> None:
        """Begin to count."""
        self._name, self._done, self._total, self._told_at = name, 0, total, time.monotonic()

    def advance(self, worker: str = "") -> None:
        """Count; say so each second, and at the end."""
        self.workers[worker] += bool(worker)
        self._done += 1
        if self._done == self._total or time.monotonic() - self._told_at >= TELL_EACH_S:
            self._told_at = time.monotonic()
            self.say(f"{self._name}: {self._done:,} of {self._total:,}")


class LiveNarrator(Narrator):
    """Bars, and under them what each worker has done; lines go above."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>12}"),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=10, transient=True)
        self._console = console
        self._task: TaskID | None = None
        self._phase_began_at = self.began_at

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """A line above the bars."""
        elapsed = Text(f"{time.monotonic() - self.began_at:5.1f} s  ", style="dim")
        self._console.print(elapsed + Text(printable(line)))

    def phase(self, name: str, total: int) -> None:
        """A new bar."""
        self._phase_began_at = time.monotonic()
        self._task = self._progress.add_task(name, total=total, rate="")

    def advance(self, worker: str = "") -> None:
        """The bar grows."""
        self.workers[worker] += bool(worker)
        if self._task is not None:
            task = self._progress.tasks[self._task]
            rate = (task.completed + 1) / max(0.001, time.monotonic() - self._phase_began_at)
            self._progress.update(self._task, advance=1, rate=f"{rate:,.0f} jobs/s")

    def _render(self) -> Group:
        line = Text("  ")
        for name in sorted(name for name in self.workers if name):
            style = "strike dim" if name in self.gone else ""
            line.append(f"{name}: {self.workers[name]:,} files", style=style).append("   ")
        return Group(self._progress, line)


def narrator() -> Narrator:
    """Live if stderr is a terminal that can do that, otherwise plain."""
    console = Console(stderr=True)
    return LiveNarrator(console) if console.is_terminal and not console.is_dumb_terminal else PlainNarrator()
