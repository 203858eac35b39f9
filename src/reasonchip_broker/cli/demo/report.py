"""The demo's report, for people: what was found, what became of every job, how fast it was."""

import os
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasonchip_broker.cli.demo.findings import PackageFindings
from reasonchip_broker.cli.demo.ledger import LOST, OK
from reasonchip_broker.cli.demo.outcome import Outcome
from reasonchip_broker.cli.text import printable

NUMBERS = ("files", "lines", "code", "functions")
"""What is told of a package: fields of `PackageFindings`, and the heads of their columns."""

PACKAGES_SHOWN = 10
ODD_SHOWN = 8

_MEANING = {
    OK: "",
    LOST: "each sent again under a new cookie",
    "CANCELLED": "as it was asked to be",
}


def report(outcome: Outcome, console: Console) -> None:
    """Print it."""
    titled = (
        (f"What was found in {outcome.survey.root}", _found(outcome)),
        ("Odd files", _odd(outcome)),
        ("What became of every job", _jobs(outcome)),
    )
    for title, table in titled:
        if table.row_count:
            # As a table's own title it would be wrapped to the width of the table.
            console.print()
            console.print(Text(printable(title), style="bold"))
            console.print(table)
    console.print()
    for line in (*_verdict(outcome), *map(Text, _throughput(outcome))):
        console.print(line, soft_wrap=not console.is_terminal)


def _table(*columns: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        number = index in set(right)
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def _found(outcome: Outcome) -> Table:
    table = _table("package", *NUMBERS, "characteristic terms", right=range(1, 1 + len(NUMBERS)))
    for package in outcome.packages[:PACKAGES_SHOWN]:
        terms = ", ".join(outcome.characteristic.get(package.package, []))
        table.add_row(_text(package.package), *_sums([package]), _text(terms))
    rest = outcome.packages[PACKAGES_SHOWN:]
    if rest:
        table.add_row(f"{len(rest):,} smaller ones", *_sums(rest), "", style="dim")
    table.add_section()
    table.add_row("in all", *_sums(outcome.packages), "", style="bold")
    return table


def _sums(packages: Sequence[PackageFindings]) -> list[str]:
    return [f"{sum(getattr(package, name) for package in packages):,}" for name in NUMBERS]


def _odd(outcome: Outcome) -> Table:
    table = _table("what", "how many", "for example", right=[1])
    for reason, number in outcome.oddities.most_common(ODD_SHOWN):
        head = reason.partition(":")[0]
        path = next(file.path for file in outcome.files if (file.skipped or file.note).startswith(head))
        table.add_row(_text(reason), f"{number:,}", _text(os.fsdecode(path)))
    for failed, error in outcome.failed[:ODD_SHOWN]:
        table.add_row(_text(error), "1", _text(os.fsdecode(failed)))
    return table


def _jobs(outcome: Outcome) -> Table:
    ledger = outcome.ledger
    kinds = sorted(ledger.kinds, key=lambda kind: -ledger.outcomes(kind).total())
    table = _table("outcome", *kinds, "in all", "", right=range(1, len(kinds) + 2))
    everything = ledger.outcomes()
    for name in sorted(everything, key=lambda name: (name != OK, name)):
        numbers = [ledger.outcomes(kind)[name] for kind in kinds]
        table.add_row(name or "none", *(f"{number:,}" for number in numbers), f"{everything[name]:,}", _MEANING.get(name, ""))
    table.add_section()
    sent = [ledger.outcomes(kind).total() for kind in kinds]
    table.add_row("sent", *(f"{number:,}" for number in sent), f"{len(ledger.entries):,}", "", style="bold")
    return table


def _verdict(outcome: Outcome) -> Iterable[Text]:
    checks = outcome.checks()
    wrong = [check for check in checks if not check.holds]
    if not wrong:
        yield Text(
            f"The numbers add up: {len(checks)} sums were checked, one of them against what the broker counted.", style="green"
        )
    for check in wrong:
        yield Text(f"THE NUMBERS DO NOT ADD UP: {check.sentence}: {check.left:,} and {check.right:,}", style="bold red")


def _throughput(outcome: Outcome) -> Iterable[str]:
    survey = outcome.survey
    longest = max(outcome.measured, key=lambda file: file.lines, default=None)
    if longest is not None:
        yield f"The longest file is {printable(os.fsdecode(longest.path))}: {longest.lines:,} lines."
    megabytes = sum(file.size for file in outcome.measured) / 1e6
    yield (
        f"{len(outcome.files):,} file jobs in {outcome.files_s:.1f} s: {outcome.jobs_per_s:,.0f} jobs/s, "
        f"{megabytes / max(0.001, outcome.files_s):.1f} MB/s. {outcome.elapsed_s:.1f} s from start to end; no process is left."
    )
    if survey.found > len(survey.files) or survey.cut_short:
        more = "more than " if survey.cut_short else ""
        yield f"Of {more}{survey.found:,} {survey.kind}, {len(survey.files):,} were chosen, at even distances, to be done in time."
    if outcome.left_out:
        yield f"There was no time for {outcome.left_out:,} of the files that were chosen."
    if survey.unreadable:
        yield f"{survey.unreadable:,} folders could not be read."


def _text(text: str) -> Text:
    """Text from elsewhere: nothing in it is markup, or moves the cursor."""
    return Text(printable(text))
