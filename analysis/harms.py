"""Runs that ended in harm, as workbench/trainer/health.py judged while they trained: what must be seen first."""

from __future__ import annotations

import re

from analysis.measures import join
from analysis.study import Study

MAX_RUNS_NAMED = 4
MAX_HARMS = 4
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?|\binf\b|\bnan\b")


def kind_of(text: str) -> str:
    """A harm without its numbers."""
    return _NUMBER.sub("#", text)


def flags(study: Study) -> list[str]:
    """Each kind of harm that runs ended in: which of them, and the first one's words. Numbers do not make a kind."""
    labels = {variant.name: variant.label for variant in study.variants}
    found: dict[str, tuple[str, list[str]]] = {}
    for row in study.loaded.runs.to_dict("records"):
        recorded = study.loaded.records[row["run"]]["status"].get("harms")
        for text in recorded if row["state"] == "finished" and isinstance(recorded, list) else []:
            label = labels.get(row["variant"], str(row["variant"]))
            named = f"{label} seed {row['seed']}" if len(labels) > 1 else f"seed {row['seed']}"
            found.setdefault(kind_of(str(text)), (str(text), []))[1].append(named)
    told = []
    for text, runs in list(found.values())[:MAX_HARMS]:
        more = [f"{len(runs) - MAX_RUNS_NAMED} more"] if len(runs) > MAX_RUNS_NAMED else []
        named = join([*runs[:MAX_RUNS_NAMED], *more])
        which = f"{len(runs)} of {len(study.loaded.runs)} runs ended badly ({named})"
        told.append(f"{which}: {text}" + ("" if len(runs) == 1 else " (the first of them)") + ".")
    return told
