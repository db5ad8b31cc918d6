"""What a tracker's replay of one run must be able to do."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from workbench.redaction import redact
from workbench.tracking.reader import RunRecord

Row = dict[str, Any]

ENDED = ("finished", "failed", "interrupted", "stopped")
"""States of status.json after which a run writes no more rows, unless it is resumed."""


class RestartTracker(BaseException):
    """The tracker's library is beyond repair in this process: start anew, in the environment that the sink left."""


class Sink(ABC):
    """One run's rows, from the first one on, written for one tracker. Whatever it raises is caught by its caller."""

    folder: Path
    """The folder that holds the tracker's files of this run."""

    @abstractmethod
    def __init__(self, run: RunRecord) -> None:
        """Open the replay in place of any former one of this run."""

    @abstractmethod
    def write(self, row: Row, completions: Sequence[Row]) -> None:
        """A row of metrics.jsonl, and the completions that belong to it: evaluations' and some of training's own."""

    @abstractmethod
    def flush(self) -> None:
        """Show what was written, without waiting for it to arrive."""

    @abstractmethod
    def finish(self, status: Row) -> None:
        """Complete the replay; status is status.json, whose state may be "running" after a crash."""

    @abstractmethod
    def abandon(self) -> None:
        """Close the replay because another takes its place."""


def log_line(run: Path, text: str) -> None:
    """One line in the run's tracking.log. A tracker's trouble is never the run's, so a full disk is not an error."""
    line = " ".join(str(redact(text)).split())
    with contextlib.suppress(OSError), open(run / "tracking.log", "a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")


def created_seconds(run: RunRecord) -> float:
    """The time at which the run was made, in seconds since the epoch. It comes from the run's provenance, so that it
    outlives a rebuild."""
    try:
        return datetime.fromisoformat(str(run.provenance["created"])).timestamp()
    except (KeyError, ValueError):
        return (run.folder / "definition.yaml").stat().st_mtime


def numbers(row: Row) -> dict[str, float]:
    """The row's metrics: no step, no nulls (they stand for NaN), no text."""
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, int | float)}


FINAL = "final/"
"""The prefix of the names of a run's final values, which are those that the report compares."""


class FinalValues:
    """The held-out values of the model that a run left: of its last evaluation, or of the best step it restored."""

    def __init__(self) -> None:
        self._evaluations: dict[int, dict[str, float]] = {}

    def see(self, row: Row) -> None:
        """A row of metrics.jsonl."""
        found = {name: value for name, value in numbers(row).items() if name.startswith("eval/")}
        if found:
            self._evaluations[int(row["step"])] = found

    def of(self, status: Row) -> tuple[int, dict[str, float]]:
        """(step, values named final/...) by what status.json says of the run's end; no values without evaluations."""
        best = status.get("best_step") if status.get("restored") is True else None
        steps = [step for step in self._evaluations if best not in self._evaluations or step <= best]
        if not steps:
            return 0, {}
        step = max(steps)
        values = self._evaluations[step]
        return step, {f"{FINAL}{name.removeprefix('eval/')}": value for name, value in values.items()}


def rewards_of(completion: Row) -> dict[str, float]:
    """The numbers among a completion's rewards, by name."""
    rewards = completion.get("rewards")
    found = rewards if isinstance(rewards, dict) else {}
    return {str(name): float(value) for name, value in found.items() if isinstance(value, int | float)}


def verdict(completion: Row) -> str:
    """Says whether a completion is right, wrong or unknown."""
    match = completion.get("exact_match")
    return "unknown" if match is None else ("right" if match >= 1 else "wrong")
