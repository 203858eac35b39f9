"""What the demo found out, and whether its numbers add up."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonchip_broker.cli.demo.findings import FileFindings, PackageFindings
from reasonchip_broker.cli.demo.ledger import Check, Ledger
from reasonchip_broker.cli.demo.survey import Survey


@dataclass
class Outcome:
    """Everything there is to report."""

    survey: Survey
    ledger: Ledger = field(default_factory=Ledger)
    files: list[FileFindings] = field(default_factory=list)
    failed: list[tuple[bytes, str]] = field(default_factory=list)
    """Files whose job failed, and how."""
    packages: list[PackageFindings] = field(default_factory=list)
    """The largest first."""
    characteristic: dict[str, list[str]] = field(default_factory=dict)
    """The terms that set a package apart."""
    wanted: Counter[str] = field(default_factory=Counter)
    """Results that were received, by kind of job."""
    files_s: float = 0.0
    """How long measuring the files took."""
    elapsed_s: float = 0.0
    counted_by_broker: int | None = None

    @property
    def measured(self) -> list[FileFindings]:
        """Files that were not skipped."""
        return [file for file in self.files if not file.skipped]

    @property
    def oddities(self) -> Counter[str]:
        """Why files were skipped, or what was odd about them, and how many there were of each."""
        return Counter(_general(file.skipped or file.note) for file in self.files if file.skipped or file.note)

    @property
    def left_out(self) -> int:
        """Files that there was no time for."""
        return len(self.survey.files) - len(self.files) - len(self.failed)

    def checks(self) -> list[Check]:
        """Every sum that must come out."""
        return list(self._checks())

    def _checks(self) -> Iterator[Check]:
        yield from self.ledger.checks(self.wanted, self.counted_by_broker)
        yield Check("files chosen = measured + skipped + failed + left out", len(self.survey.files), self._accounted())
        if self.packages:
            merged = sum(package.lines for package in self.packages)
            yield Check("lines counted file by file = lines in the merged packages", self._lines(), merged)

    def _accounted(self) -> int:
        skipped = sum(bool(file.skipped) for file in self.files)
        return len(self.measured) + skipped + len(self.failed) + self.left_out

    def _lines(self) -> int:
        return sum(file.lines for file in self.measured)

    @property
    def adds_up(self) -> bool:
        """Whether all sums come out, and each file that there was time for was looked at."""
        return all(check.holds for check in self.checks()) and not self.failed

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        totals = {name: sum(getattr(file, name) for file in self.measured) for name in TOTALS}
        return {
            "input": str(self.survey.root),
            "files": {
                "found": self.survey.found,
                "chosen": len(self.survey.files),
                "measured": len(self.measured),
                "failed": len(self.failed),
                "left_out": self.left_out,
                "odd": dict(self.oddities),
            },
            "totals": totals,
            "packages": [
                {
                    "package": package.package,
                    "files": package.files,
                    "lines": package.lines,
                    "terms": self.characteristic.get(package.package, []),
                }
                for package in self.packages
            ],
            "jobs": {kind: dict(self.ledger.outcomes(kind)) for kind in self.ledger.kinds},
            "sent_again": self.ledger.repeated,
            "checks": {check.sentence: [check.left, check.right] for check in self.checks()},
            "adds_up": self.adds_up,
            "seconds": round(self.elapsed_s, 3),
            "jobs_per_second": round(self.jobs_per_s, 1),
        }

    @property
    def jobs_per_s(self) -> float:
        """File jobs a second, while there were any."""
        return len(self.files) / self.files_s if self.files_s else 0.0


TOTALS = ("size", "lines", "code", "comment", "blank", "tokens", "functions", "classes")


def finished_by_broker(log: Path) -> int | None:
    """How many jobs the broker says it brought to their end, in the last line of its log; None if it did not get to say so."""
    for line in reversed(log.read_text("utf-8", "replace").splitlines()):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "broker stopped":
            return int(event["finished"])
    return None


def _general(reason: str) -> str:
    """A reason without its details, so that the same ones are counted together."""
    return reason.partition(" (")[0] + ("" if ")" not in reason else reason.rpartition(")")[2])
