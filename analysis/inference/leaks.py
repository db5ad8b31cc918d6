"""Held-out prompts that were also trained on, as the runs recorded them: what is claimed is told with their share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from analysis.inference.claims import Answer
from analysis.measures import capital, join_few
from analysis.study import Study

PAIRS = "held-out pairs"
"""The name that runs record them by."""
BESIDE = ("held-out prompts of ", "held-out pairs of ")
"""How the names begin of what is of a held-out set beside the deciding one."""
QUALIFIES = 0.01
"""The share of held-out prompts that were trained on above which a claim is qualified by it."""


def qualified(study: Study, answer: Answer) -> Answer:
    """The answer, led by the held-out prompts that were trained on, where they are more than 1 % of all; those of sets
    that do not decide qualify no claim and are told as well."""
    measured, others = _shared(study, decide=True), _shared(study, decide=False)
    if not measured and not others:
        return answer
    told = []
    for text, labels in [*measured.items(), *others.items()]:
        told.append(text + ("" if len(labels) == len(study.variants) else f" (at {join_few(labels)})"))
    flag = (
        f"{capital('; '.join(told))}: the values show what was memorised as well as what was learned, and say nothing "
        "sure of new prompts. Hold out others, or take these from the training data."
    )
    result = f"Qualified, for {next(iter(measured))}: {answer.result}" if measured else answer.result
    return replace(answer, result=result, flags=[flag, *answer.flags])


def _decided_by_pairs(study: Study) -> bool:
    """Whether held-out pairs decide, and not prompts: what is shared by the others qualifies no claim."""
    return study.deciding is not None and study.deciding.column.startswith("eval/pair")


def _shared(study: Study, *, decide: bool) -> dict[str, list[str]]:
    """The labels of the settings by what their runs recorded of the held-out items that decide, or of all others; the
    greatest share first."""
    of_pairs = _decided_by_pairs(study)
    labels = {variant.name: variant.label for variant in study.variants}
    found: dict[str, list[str]] = {}
    shares: dict[str, float] = {}
    for row in study.loaded.runs.to_dict("records"):
        for overlap in _overlaps(study.loaded.records[row["run"]]["status"]):
            held_out = str(overlap.get("held_out"))
            if decide != (not held_out.startswith(BESIDE) and (held_out == PAIRS) == of_pairs):
                continue
            text, label = str(overlap.get("text")), labels.get(row["variant"], str(row["variant"]))
            shares[text] = overlap["share"]
            if label not in found.setdefault(text, []):
                found[text].append(label)
    return dict(sorted(found.items(), key=lambda item: -shares[item[0]]))


def _overlaps(status: dict[str, Any]) -> Iterator[dict[str, Any]]:
    recorded = status.get("overlaps")
    for overlap in recorded if isinstance(recorded, list) else []:
        share = overlap.get("share") if isinstance(overlap, dict) else None
        if isinstance(share, int | float) and share > QUALIFIES:
            yield overlap
