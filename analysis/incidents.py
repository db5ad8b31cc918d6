"""What went wrong in runs, at which step and time, and what was done: the accounts that their statuses hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.study import Study

FIELDS = ("step", "what", "action", "at")


@dataclass(frozen=True)
class Incident:
    """One incident of a run. action: skip, stop, "rollback to step 40" or "micro_batch_rows 4"; at: UTC, to the
    second."""

    run: str
    variant: str
    seed: Any
    step: int
    what: str
    action: str
    at: str


def incidents(study: Study) -> list[Incident]:
    """The incidents of every run, in the runs' order and then by time; malformed ones are left out."""
    return [
        Incident(row["run"], str(row["variant"]), row["seed"], **{name: entry[name] for name in FIELDS})
        for row in study.loaded.runs.to_dict("records")
        for entry in _entries(study.loaded.records[row["run"]]["status"].get("incidents"))
    ]


def _entries(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if _is_sound(entry)] if isinstance(value, list) else []


def _is_sound(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("step")) is int
        and all(isinstance(entry.get(name), str) for name in FIELDS[1:])
    )
