"""Held-out prompts that were also trained on, as the runs recorded them: what is claimed is told with their share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from analysis.claims import Answer
from analysis.measures import join_few
from analysis.study import Study

QUALIFIES = 0.01
"""The share of held-out prompts that were trained on above which a claim is qualified by it."""


def qualified(study: Study, answer: Answer) -> Answer:
    """The answer, led by the held-out prompts that were trained on, where they are more than 1 % of all."""
    found = _shared(study)
    if not found:
        return answer
    flags = []
    for text, labels in found.items():
        where = "" if len(labels) == len(study.variants) else f" (at {join_few(labels)})"
        flags.append(
            f"{text[0].upper()}{text[1:]}{where}: the values show what was memorised as well as what was learned, and "
            "say nothing sure of new prompts. Hold out others, or take these from the training data."
        )
    result = f"Qualified, for {next(iter(found))}: {answer.result}"
    return replace(answer, result=result, flags=[*flags, *answer.flags])


def _shared(study: Study) -> dict[str, list[str]]:
    """The labels of the settings by what their runs recorded, the greatest share first."""
    labels = {variant.name: variant.label for variant in study.variants}
    found: dict[str, list[str]] = {}
    shares: dict[str, float] = {}
    for row in study.loaded.runs.to_dict("records"):
        for overlap in _overlaps(study.loaded.records[row["run"]]["status"]):
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
