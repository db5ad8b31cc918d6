"""`make faults`: python -m tests.faults [--short] [ROW ...]. Injects every fault of the matrix, prints what survived.

--short: a few tries of what is drawn at random, as CI does. Where `make test` has passed on this very code its counts
are taken over and its tests are not run again (after `make test ALL=1` none is); else a few cases of each contract test
are run.
Without it: 20 kills of every trainer at random times and as many at named points, 6 of whole commands, and 1,200
examples of each of the nine fuzz tests. A try is a test case, or as many as it says itself. The table of a run of all
rows is kept in runs/faults; --paste writes the last one into docs/faults.md, or that of what `make test ALL=1` has
counted since.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from tests.benchmarks.page import paste_table
from tests.faults.rows import FAULTS
from tests.faults.tally import KEPT as TESTS
from tests.faults.tally import SHORT, Counter, Tally, kept

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "runs/faults/table.md"
LONG = {"FAULT_TRIES": "20", "FAULT_EXAMPLES": "1200"}
SHORT_CASES = ("--cases", "5")


def table(counter: Counter, wanted: set[int]) -> str:
    """The table, as docs/faults.md shows it."""
    lines = ["| # | fault | promise | tries | survived | lost |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for fault in FAULTS:
        if fault.number in wanted:
            t = counter.rows[fault.number]
            counts = f"{t.tries:,} | {t.tries - t.lost:,} | {t.lost}"
            lines.append(f"| {fault.number} | {fault.what} | {fault.promise} | {counts} |")
    return "\n".join(lines)


def account(counter: Counter, wanted: set[int], how: str, day: date) -> str:
    """The table, and below it the sums and what they are of."""
    tallies = [counter.rows[number] for number in sorted(wanted)]
    tries, lost, skipped = (sum(getattr(tally, name) for tally in tallies) for name in ("tries", "lost", "skipped"))
    return f"{table(counter, wanted)}\n\n{tries:,} tries, {lost} lost, {skipped} skipped here; {how}, {day}\n"


def paste(page: Path) -> int:
    """Writes the newest whole table into the page; 1 where there is none. What `make test ALL=1` has counted is one,
    of the day on which it ended."""
    known = {fault.number for fault in FAULTS}
    counted = kept()
    whole = counted is not None and not counted[0] and all(counted[1].get(n, Tally()).tries for n in known)
    if counted is not None and whole and not (KEPT.is_file() and KEPT.stat().st_mtime >= TESTS.stat().st_mtime):
        counter = Counter()
        counter.rows.update(counted[1])
        found = account(counter, known, "by `make test ALL=1`", date.fromtimestamp(TESTS.stat().st_mtime))
    elif KEPT.is_file():
        found = KEPT.read_text(encoding="utf-8")
    else:
        print(
            "found no table of all rows; `make faults`, or `make test ALL=1` on this code, makes one", file=sys.stderr
        )
        return 1
    paste_table(page, found, "make faults")
    return 0


def main() -> int:
    """1 where something was lost, or a row was not tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Inject every fault of the matrix.")
    parser.add_argument("rows", nargs="*", type=int, metavar="ROW", help="numbers of rows (default: all)")
    parser.add_argument("--short", action="store_true", help="a few tries of what is drawn at random")
    parser.add_argument("--paste", action="store_true", help="write the last whole table into docs/faults.md")
    parsed = parser.parse_args()
    if parsed.paste:
        return paste(ROOT / "docs/faults.md")
    known = {fault.number for fault in FAULTS}
    if unknown := sorted(set(parsed.rows) - known):
        parser.error(f"found {unknown[0]}, allowed 1 to {max(known)}")
    os.environ |= SHORT if parsed.short else LONG
    wanted = set(parsed.rows) or known
    counter, started = Counter(), time.monotonic()
    counted = kept() if parsed.short else None
    code = run_tests(wanted, counter, counted, is_short=parsed.short)
    minutes = (time.monotonic() - started) / 60
    tallies = {number: counter.rows[number] for number in sorted(wanted)}
    how = f"{minutes:.0f} min{' with `SHORT=1`' if parsed.short else ''}{', after `make test`' if counted else ''}"
    found = account(counter, wanted, how, date.today())
    before = " (with those of `make test`, which has passed on this code)" if counted is not None else ""
    print(f"\n{found}\nseconds by row{before}: { {n: round(t.seconds) for n, t in tallies.items()} }")
    if wanted == known and all(tally.tries for tally in tallies.values()):
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text(found, encoding="utf-8")
    untried = [number for number, tally in tallies.items() if not tally.tries]
    if untried:
        print(f"rows without a try: {untried}", file=sys.stderr)
    return int(code != 0 or bool(untried))


def run_tests(
    wanted: set[int], counter: Counter, counted: tuple[str, Mapping[int, Tally]] | None, *, is_short: bool
) -> int:
    """Run the tests of these rows less those that were counted, and give pytest's code."""
    rows = ",".join(str(number) for number in sorted(wanted))
    arguments = ["-n", "logical", "--dist", "worksteal", "-p", "tests.faults.selection", "--faults", rows]
    if counted is not None:
        marks, tallies = counted
        counter.rows.update(tallies)
        if not marks:
            return pytest.ExitCode.OK
        arguments += ["-m", f"not ({marks})"]
    elif is_short:
        arguments += SHORT_CASES
    code = pytest.main(["-q", "--no-header", "-rfE", *arguments, str(ROOT / "tests")], plugins=[counter])
    if code == pytest.ExitCode.NO_TESTS_COLLECTED and counted is not None:
        return pytest.ExitCode.OK  # `make test` has run all tests of these rows
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
