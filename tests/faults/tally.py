"""A pytest plugin, `-p tests.faults.tally`: counts what became of the tests of every row of the fault matrix.

`make test` keeps its counts, with a fingerprint of the code that they are of. A short run of the matrix on the same
code takes them over and runs only what `make test` left out, which after `make test ALL=1` is nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.rows import rows_of

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "runs/faults/tests.json"
MARKS = ("not slow", "")
"""What `make test` runs, and what it runs with ALL=1."""
SHORT = {"FAULT_TRIES": "2", "FAULT_EXAMPLES": "150"}
"""How often a short run tries what is drawn at random, as tests do where nobody says otherwise."""


@dataclass
class Tally:
    """What became of the tests of one row."""

    tries: int = 0
    lost: int = 0
    skipped: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)


class Counter:
    """Counts the tests of a session by row; a test that stands in several rows counts in each."""

    def __init__(self) -> None:
        self.rows: dict[int, Tally] = defaultdict(Tally)

    def pytest_runtest_logreport(self, report: Any) -> None:
        for number in rows_of(report.nodeid):
            tally = self.rows[number]
            tally.seconds += report.duration
            if report.skipped:
                tally.skipped += 1
            elif report.when == "call" or report.failed:
                drawn = int(tries()["FAULT_EXAMPLES"]) if "test_fuzz.py" in report.nodeid else 1
                tally.tries += dict(report.user_properties).get("tries", drawn)
                tally.lost += report.failed
                tally.failed += [report.nodeid] * report.failed


class Keeper(Counter):
    """Keeps the counts of a whole session of `make test` in which nothing failed."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__()
        self.config = config
        KEPT.unlink(missing_ok=True)
        self.code = fingerprint()

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        option = self.config.option
        is_whole = option.markexpr in MARKS and not option.keyword and self.config.args_source.name != "ARGS"
        if exitstatus == 0 and is_whole and self.code == fingerprint():
            KEPT.parent.mkdir(parents=True, exist_ok=True)
            rows = {number: asdict(tally) for number, tally in self.rows.items()}
            record = {"code": self.code, "marks": option.markexpr, "rows": rows}
            KEPT.write_text(json.dumps(record), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """The process that starts the others counts; they report to it."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Keeper(config))


def tries() -> dict[str, str]:
    """How often this process and its tests try what is drawn at random."""
    return {name: os.environ.get(name, number) for name, number in SHORT.items()}


def fingerprint() -> str:
    """A hash of everything that the outcome of a test rests on but the machine."""
    found = hashlib.sha256(json.dumps(tries()).encode())
    for folder in ("workbench", "analysis", "tests", "experiments"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    for name in ("requirements.lock", "pyproject.toml", "Makefile"):
        found.update((ROOT / name).read_bytes())
    return found.hexdigest()


def kept() -> tuple[str, Mapping[int, Tally]] | None:
    """The marks of the last `make test` and its counts; None where it was of other code, failed, or never ran."""
    try:
        record = json.loads(KEPT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if record["code"] != fingerprint():
        return None
    return record["marks"], {int(number): Tally(**tally) for number, tally in record["rows"].items()}
