"""The matrix has every row, and no row has a pattern that matches nothing."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from pathlib import Path

import pytest

from tests.faults import __main__ as faults
from tests.faults import tally
from tests.faults.__main__ import run_tests
from tests.faults.rows import FAULTS

TESTS = Path(__file__).parents[1]
IDS = [
    f"{path.relative_to(TESTS)}::{name}"
    for path in sorted(TESTS.rglob("test_*.py"))
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
]


def test_every_row_is_there_once() -> None:
    numbers = [fault.number for fault in FAULTS]
    assert numbers == sorted(set(numbers))
    assert set(range(1, 21)) <= set(numbers)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.number))
def test_every_pattern_finds_a_test(fault) -> None:
    for pattern in fault.tests:
        assert fnmatch.filter(IDS, pattern), pattern


def test_every_test_of_a_fault_stands_in_a_row() -> None:
    patterns = [pattern for fault in FAULTS for pattern in fault.tests]
    faults = [name for name in IDS if name.startswith("faults/") and "test_rows.py" not in name]
    assert faults
    assert [name for name in faults if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)] == []


def test_the_table_on_the_page_is_made_of_what_make_test_counted_where_that_is_newer(tmp_path, monkeypatch, capsys):
    tests, table, page = tmp_path / "tests.json", tmp_path / "table.md", tmp_path / "faults.md"
    for module, name, path in ((tally, "KEPT", tests), (faults, "TESTS", tests), (faults, "KEPT", table)):
        monkeypatch.setattr(module, name, path)
    marks = "<!-- make faults: begin -->\n{}<!-- make faults: end -->\n"
    page.write_text(marks.format("as it was\n"))
    assert faults.paste(page) == 1
    assert "found no table of all rows" in capsys.readouterr().err
    assert page.read_text() == marks.format("as it was\n")

    rows = {fault.number: {"tries": 2, "lost": 0, "skipped": 1, "seconds": 1.0, "failed": []} for fault in FAULTS}
    record = {"code": tally.fingerprint(), "marks": "", "rows": rows}
    tests.write_text(json.dumps(record))
    os.utime(tests, (0, 0))
    assert faults.paste(page) == 0
    sums = f"{2 * len(FAULTS)} tries, 0 lost, {len(FAULTS)} skipped here; by `make test ALL=1`, 1970-01-01"
    assert sums in page.read_text()
    assert f"| 1 | {FAULTS[0].what} | {FAULTS[0].promise} | 2 | 2 | 0 |" in page.read_text()

    table.write_text("a newer table\n")
    assert faults.paste(page) == 0
    assert page.read_text() == marks.format("\na newer table\n\n")
    os.utime(table, (-1, -1))
    tests.write_text(json.dumps(record | {"marks": "not slow"}))  # not of all rows
    assert faults.paste(page) == 0
    assert page.read_text() == marks.format("\na newer table\n\n")


def test_counts_of_other_code_or_of_other_tries_are_not_taken_over(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tally, "KEPT", tmp_path / "tests.json")
    assert tally.kept() is None
    rows = {"1": {"tries": 3, "lost": 0, "skipped": 0, "seconds": 1.0, "failed": []}}
    record = {"code": tally.fingerprint(), "marks": "not slow", "rows": rows}
    tally.KEPT.write_text(json.dumps(record))
    found = tally.kept()
    assert found is not None
    assert (found[0], found[1][1].tries) == ("not slow", 3)
    monkeypatch.setenv("FAULT_TRIES", "1")
    assert tally.kept() is None
    tally.KEPT.write_text(json.dumps(record | {"code": "of another day"}))
    monkeypatch.undo()
    monkeypatch.setattr(tally, "KEPT", tmp_path / "tests.json")
    assert tally.kept() is None
    tally.KEPT.write_text("torn")
    assert tally.kept() is None


@pytest.mark.parametrize(("marks", "run"), [("not slow", True), ("", False)])
def test_what_was_run_before_is_counted_and_not_run_again(marks, run, monkeypatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(pytest, "main", lambda arguments, plugins: asked.append(arguments) or 0)
    counter = tally.Counter()
    assert run_tests({1}, counter, (marks, {1: tally.Tally(tries=3)}), is_short=True) == 0
    assert counter.rows[1].tries == 3
    assert [arguments[-2] for arguments in asked] == ["not (not slow)"] * run
