"""The matrix has every row, and no row has a pattern that matches nothing."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path

import pytest

from tests.faults import tally
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


def test_counts_of_other_code_are_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "KEPT", tmp_path / "tests.json")
    assert tally.kept() is None
    rows = {"1": {"tries": 3, "lost": 0, "skipped": 0, "seconds": 1.0, "failed": []}}
    tally.KEPT.write_text(json.dumps({"code": tally.fingerprint(), "rows": rows}))
    found = tally.kept()
    assert found is not None
    assert found[1].tries == 3
    tally.KEPT.write_text(json.dumps({"code": "of another day", "rows": rows}))
    assert tally.kept() is None
    tally.KEPT.write_text("torn")
    assert tally.kept() is None
