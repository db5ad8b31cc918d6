"""Which runs may be compared: what differs between them that would make a comparison mean nothing."""

from __future__ import annotations

import json
from typing import Any

from analysis.study import Study


def differences_in_evaluation(study: Study) -> dict[str, dict[str, list[str]]]:
    """{field of evaluate: {its value: variants that have it}} for each field in which compared variants differ."""
    by_variant: dict[str, dict[str, Any]] = {}
    for row in study.loaded.runs.to_dict("records"):
        evaluate = study.loaded.records[row["run"]]["definition"].get("evaluate")
        if evaluate is not None:
            by_variant.setdefault(row["variant"], evaluate)
    labels = {variant.name: variant.label for variant in study.variants}
    fields = sorted({key for evaluate in by_variant.values() for key in evaluate} - {"every"})
    found: dict[str, dict[str, list[str]]] = {}
    for key in fields:
        values: dict[str, list[str]] = {}
        for variant, evaluate in by_variant.items():
            values.setdefault(json.dumps(evaluate.get(key), sort_keys=True), []).append(labels.get(variant, variant))
        if len(values) > 1:
            found[key] = values
    return found
