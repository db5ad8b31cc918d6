"""`make faults`: python -m tests.faults [--short] [ROW ...]. Injects every fault of the matrix, prints what survived.

--short: a few tries of what is drawn at random, as CI does, and a few cases of each of the contract tests, which
`make test` runs whole; else 20 kills of every trainer at random times and as many at named points, 6 of whole commands,
and 1,200 examples of each of the nine fuzz tests. A try is a test case, or as many as it says itself. The table of a
whole long run is kept in runs/faults; --readme pastes it into README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.page import paste_table
from tests.faults.rows import FAULTS, rows_of

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "runs/faults/table.md"
LONG = {"FAULT_TRIES": "20", "FAULT_EXAMPLES": "1200"}
SHORT = {"FAULT_TRIES": "2", "FAULT_EXAMPLES": "150"}
SHORT_CASES = ("--cases", "5")


@dataclass
class Tally:
    """Of one row."""

    tries: int = 0
    lost: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)


class Matrix:
    """A pytest plugin: counts what became of the tests of the wanted rows."""

    def __init__(self, wanted: set[int]) -> None:
        self.wanted = wanted
        self.tally: dict[int, Tally] = defaultdict(Tally)

    def pytest_runtest_logreport(self, report: Any) -> None:
        for number in self.wanted.intersection(rows_of(report.nodeid)):
            tally = self.tally[number]
            tally.seconds += report.duration
            if report.skipped:
                tally.skipped += 1
            elif report.when == "call" or report.failed:
                drawn = int(os.environ["FAULT_EXAMPLES"]) if "test_fuzz.py" in report.nodeid else 1
                tries = dict(report.user_properties).get("tries", drawn)
                tally.tries += tries
                tally.lost += report.failed
                tally.failed += [report.nodeid] * report.failed

    def seconds(self) -> dict[int, int]:
        """That the tests of each row took; one that stands in several rows counts in each."""
        return {number: round(self.tally[number].seconds) for number in sorted(self.tally)}


def table(matrix: Matrix) -> str:
    """As the README shows it."""
    lines = ["| # | fault | promise | tries | survived | lost |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for fault in FAULTS:
        if fault.number in matrix.wanted:
            t = matrix.tally[fault.number]
            counts = f"{t.tries:,} | {t.tries - t.lost:,} | {t.lost}"
            lines.append(f"| {fault.number} | {fault.what} | {fault.promise} | {counts} |")
    return "\n".join(lines)


def main() -> int:
    """1 where something was lost, or a row was not tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Inject every fault of the matrix.")
    parser.add_argument("rows", nargs="*", type=int, metavar="ROW", help="numbers of rows (default: all)")
    parser.add_argument("--short", action="store_true", help="a few tries of what is drawn at random")
    parser.add_argument("--readme", action="store_true", help="paste the table of the last whole run into README.md")
    parsed = parser.parse_args()
    if parsed.readme:
        paste_table(ROOT / "README.md", KEPT.read_text(encoding="utf-8"), "make faults")
        return 0
    known = {fault.number for fault in FAULTS}
    if unknown := sorted(set(parsed.rows) - known):
        parser.error(f"found {unknown[0]}, allowed 1 to {max(known)}")
    os.environ |= SHORT if parsed.short else LONG
    matrix = Matrix(set(parsed.rows) or known)
    started = time.monotonic()
    rows = ",".join(str(number) for number in sorted(matrix.wanted))
    arguments = ["-n", "logical", "--dist", "worksteal", "-p", "tests.faults.selection", "--faults", rows]
    arguments += SHORT_CASES if parsed.short else ()
    code = pytest.main(["-q", "--no-header", "-rfE", *arguments, str(ROOT / "tests")], plugins=[matrix])
    minutes = (time.monotonic() - started) / 60
    tries, lost = (sum(getattr(t, name) for t in matrix.tally.values()) for name in ("tries", "lost"))
    skipped = sum(t.skipped for t in matrix.tally.values())
    found = (
        f"{table(matrix)}\n\n{tries:,} tries, {lost} lost, {skipped} skipped here; {minutes:.0f} min, {date.today()}\n"
    )
    print(f"\n{found}\nseconds by row: {matrix.seconds()}")
    if matrix.wanted == known and not parsed.short:
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text(found, encoding="utf-8")
    untried = [number for number in sorted(matrix.wanted) if not matrix.tally[number].tries]
    if untried:
        print(f"rows without a try: {untried}", file=sys.stderr)
    return int(code != 0 or bool(untried))


if __name__ == "__main__":
    sys.exit(main())
