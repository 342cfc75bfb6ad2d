"""What a run of the rig says: one JSON line with the row it tries, its seed, its counts, the commit, the machine.

The line is printed, and added to the file that FAULTS_REPORT names, so that the lines of many runs can be kept.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench.machine import commit, machine

Count = int | float | str | bool | None


@dataclass
class Report:
    """One run. `row` is the line of docs/reliability.md that it tries; `violations` must be empty; `cannot_tell` is
    what the run was too short to judge: neither kept nor broken."""

    row: str
    tried: str
    seed: int = 0
    counts: dict[str, Count] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    cannot_tell: list[str] = field(default_factory=list)
    full: dict[str, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def add(self, **counts: int) -> None:
        for name, count in counts.items():
            before = self.counts.get(name, 0)
            assert isinstance(before, int), f"{name} is not a count"
            self.counts[name] = before + count

    def merge(self, other: Report) -> None:
        """Add the counts of another run of the same kind; what is no count is as it was last."""
        for name, count in other.counts.items():
            before = self.counts.get(name)
            if isinstance(before, int) and isinstance(count, int) and not isinstance(count, bool):
                self.counts[name] = before + count
            else:
                self.counts[name] = count
        self.violations += other.violations
        self.cannot_tell += other.cannot_tell

    def extrapolate(self, name: str, wanted: int, what: str) -> None:
        """Note how many hours `wanted` of the count `name` would take at this run's pace."""
        done = self.counts.get(name)
        if isinstance(done, int) and done:
            hours = (time.monotonic() - self.begun) / done * wanted / 3600
            self.full[f"{wanted:,} {what}"] = round(hours, 2)

    def line(self) -> str:
        return json.dumps(
            {
                "row": self.row,
                "tried": self.tried,
                "seed": self.seed,
                "counts": self.counts,
                "violations": self.violations[:20],
                "violation_count": len(self.violations),
                "cannot_tell": self.cannot_tell[:20],
                **({"full_run_hours": self.full} if self.full else {}),
                "took_s": round(time.monotonic() - self.begun, 1),
                "commit": commit(),
                "date": datetime.now(UTC).strftime("%Y-%m-%d"),
                "machine": machine(),
            }
        )

    def tell(self) -> Report:
        """Print the line, and keep it where FAULTS_REPORT says."""
        line = self.line()
        print(line, flush=True)
        kept = os.environ.get("FAULTS_REPORT")
        if kept:
            with Path(kept).open("a") as file:
                file.write(line + "\n")
        return self

    @property
    def status(self) -> int:
        """Of a process that made this run."""
        return status_of([self])

    def require(self) -> Report:
        """Fail if anything that was promised did not hold; the line is told first."""
        self.tell()
        assert not self.violations, "\n".join(self.violations[:20])
        return self


def status_of(reports: list[Report]) -> int:
    """0: all that was promised held; 1: something did not; 3: nothing did not, and some of it cannot be told. (2 is
    wrong use.)"""
    if any(report.violations for report in reports):
        return 1
    return 3 if any(report.cannot_tell for report in reports) else 0
