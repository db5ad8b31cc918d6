"""What the runs warned of and noted while they trained, said once however many runs said it; and what went wrong in
them, at which step and time, and what was done."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from analysis.inference import harms
from analysis.measures import join
from analysis.study import Study
from workbench.tracking.words import plural

FIELDS = ("step", "what", "action", "at")
MAX_WARNINGS = 8
MAX_RUNS_NAMED = 4
DONE = {"skip": "skipped", "rollback": "rolled back", "micro_batch_rows": "cut for memory", "stop": "ended the run"}
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def warnings(study: Study) -> list[str]:
    """Every kind of warning: the first that was given and the runs that gave it. Numbers do not make a kind."""
    kinds: dict[str, tuple[str, dict[str, None]]] = {}
    labels = {variant.name: variant.label for variant in study.variants}
    for row in study.loaded.runs.to_dict("records"):
        status = study.loaded.records[row["run"]]["status"]
        ended_so = {harms.kind_of(text) for text in _texts(status.get("harms"))}
        for text in _texts(status.get("warnings")):
            if harms.kind_of(text.partition(": ")[2]) in ended_so:
                continue  # it is said first of all, of the run's end
            kind = _NUMBER.sub("#", text)
            label = labels.get(row["variant"], row["variant"])
            named = f"{label} seed {row['seed']}" if len(labels) > 1 else f"seed {row['seed']}"
            kinds.setdefault(kind, (text, {}))[1][named] = None
    found = _troubled(study)
    for text, runs in kinds.values():
        others = [f"{len(runs) - MAX_RUNS_NAMED} more"] if len(runs) > MAX_RUNS_NAMED else []
        named = join([*list(runs)[:MAX_RUNS_NAMED], *others])
        found.append(f"Warned by {len(runs)} of {plural(len(study.loaded.runs), 'run')} ({named}): {text}")
    more = len(found) - MAX_WARNINGS
    return [*found[:MAX_WARNINGS], f"{more} further kinds of warning stand in status.json."] if more > 0 else found


def _troubled(study: Study) -> list[str]:
    """How many runs did not take every step, in a line; their account stands with the runs."""
    found = incidents(study)
    if not found:
        return []
    done = Counter(incident.action.split()[0] for incident in found)
    counted = join([f"{done[action]:,} {said}" for action, said in DONE.items() if done[action]])
    runs = len({incident.run for incident in found})
    of_all = f"{runs} of {plural(len(study.loaded.runs), 'run')}"
    return [f"{of_all} had steps in trouble ({counted}): the section Runs says which and when."]


def notes(study: Study) -> list[str]:
    """The plan's notes, and those of runs that the plan does not hold yet."""
    own = [text for record in study.loaded.records.values() for text in _texts(record["status"].get("notes"))]
    return list(dict.fromkeys([*study.notes, *own]))


def _texts(value: object) -> list[str]:
    return [str(text) for text in value] if isinstance(value, list) else []


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
