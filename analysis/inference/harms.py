"""Runs that ended in harm, as records/health.py of the trainer judged while they trained: what must be seen first."""

from __future__ import annotations

import re
from dataclasses import replace

from analysis.inference.claims import Answer
from analysis.measures import join_few
from analysis.study import Study
from workbench.tracking.words import plural

MAX_RUNS_NAMED = 4
MAX_HARMS = 4
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?|\binf\b|\bnan\b")


def kind_of(text: str) -> str:
    """A harm without its numbers."""
    return _NUMBER.sub("#", text)


def flags(study: Study) -> list[str]:
    """One flag for each set of runs that ended badly, with every kind of harm that they ended in: the first one's
    words. Numbers do not make a kind."""
    found: dict[str, tuple[str, list[str]]] = {}
    for named, texts in _ended_badly(study).items():
        for text in texts:
            found.setdefault(kind_of(text), (text, []))[1].append(named)
    told: dict[tuple[str, ...], list[str]] = {}
    for text, runs in list(found.values())[:MAX_HARMS]:
        told.setdefault(tuple(runs), []).append(text + ("" if len(runs) == 1 else " (the first of them)"))
    of_all = plural(len(study.loaded.runs), "run")
    return [
        f"{len(runs)} of {of_all} ended badly ({join_few(list(runs), MAX_RUNS_NAMED)}): {'; '.join(texts)}."
        for runs, texts in told.items()
    ]


def qualified(study: Study, answer: Answer) -> Answer:
    """The answer, led by how many runs ended badly; as it is where none did."""
    number = len(_ended_badly(study))
    if not number:
        return answer
    which = f"{number} of {plural(len(study.loaded.runs), 'run')} ended badly"
    return replace(answer, result=f"Qualified, for {which}: {answer.result}", flags=[*flags(study), *answer.flags])


def _ended_badly(study: Study) -> dict[str, list[str]]:
    """The harms that finished runs ended in, by the run's label."""
    labels = {variant.name: variant.label for variant in study.variants}
    found = {}
    for row in study.loaded.runs.to_dict("records"):
        recorded = study.loaded.records[row["run"]]["status"].get("harms")
        if row["state"] == "finished" and isinstance(recorded, list) and recorded:
            label = labels.get(row["variant"], str(row["variant"]))
            named = f"{label} seed {row['seed']}" if len(labels) > 1 else f"seed {row['seed']}"
            found[named] = [str(text) for text in recorded]
    return found
