"""What everything cost: the shared start and the stages once, then each setting by itself and charged in full."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.document import Cell, Prose, Section, Table
from analysis.measures import COSTS, Measure, format_number, join, number_or_nan
from analysis.plots import Canvas
from analysis.sections.cells import setting
from analysis.study import Study, Variant

FIELDS = ("generated_tokens", "trained_tokens", "scored_tokens", "flops", "seconds")
STAGES = {"collect": "collecting pairs", "ref_logprobs": "reference log-probs"}


def section(study: Study, canvas: Canvas) -> Section | None:
    """None of it is summed over unlike tokens; the formula stands below the table."""
    inherits = any(inherited_costs(study, variant) for variant in study.variants)
    text = "What the runs were made from stands first, once; below it each setting's own training"
    if inherits:
        text += (
            " and, smaller, what it amounts to when every inherited cost is charged in full to every setting that "
            "needs it (the start apart)"
        )
    return Section("Costs", [Prose(f"{text}."), table(study)])


def table(study: Study) -> Table:
    """The shared start and the inherited stages once each, then each variant's own costs (mean over finished seeds).

    Under a variant's own number stands what it comes to with its inherited costs charged in full.
    """
    rows: list[list[Cell]] = []
    flat: list[dict[str, Any]] = []

    def add(what: Cell, values: Mapping[str, float], total: Mapping[str, float] | None = None) -> None:
        rows.append([what, *_cost_cells(values, total, what.tone)])
        for part, numbers in (("own", values), ("charged in full", total)):
            if numbers is not None:
                fields = {field: numbers.get(field, math.nan) for field in FIELDS}
                flat.append({"what": what.text, "part": part, **fields})

    for run, record in study.start.records.items() if study.start is not None else ():
        spent = dict(record["status"].get("costs") or {})
        spent["seconds"] = record["status"].get("seconds")
        add(
            Cell(f"start {run}", "", ("shared by all, not charged",), "muted"),
            {f: number_or_nan(spent.get(f)) for f in FIELDS},
        )
    inherited = {variant.name: inherited_costs(study, variant) for variant in study.variants}
    for stage, values, labels in _distinct_stages(study, inherited):
        everyone = len(labels) == len(study.variants) > 1
        needed = f"inherited by {'every setting' if everyone else join(labels)}"
        add(Cell(STAGES.get(stage, stage), "", (needed,), "muted"), values)
    for variant in study.variants:
        own = _own_costs(study, variant)
        total = dict(own)
        for values in inherited[variant.name].values():
            total = {field: total.get(field, 0.0) + values[field] for field in FIELDS}
        if own:
            add(setting(variant, ("with inherited",) if total != own else ()), own, total if total != own else None)
    heads = [("what", ""), *((m.label, m.unit) for m in _columns())]
    return Table("costs", heads, rows, flat, label="Costs", caption=_caption(study))


def _caption(study: Study) -> str:
    return " ".join(
        [
            "Means over finished seeds. Tokens exclude padding; rollouts count as generated tokens, and their forward "
            "passes as FLOPs.",
            *([times] if (times := repeats(study)) else []),
            "FLOPs: forward 2 (N frozen + N trained) a token, backward 2 N frozen + 4 N trained; attention and "
            "recomputation added, input embedding excluded, output head included. Training time leaves out "
            "evaluation; it depends on the machine and on what ran beside it.",
        ]
    )


def _distinct_stages(
    study: Study, inherited: Mapping[str, Mapping[str, dict[str, float]]]
) -> list[tuple[str, dict[str, float], list[str]]]:
    """Each stage's costs with the variants that were charged just these."""
    found: list[tuple[str, dict[str, float], list[str]]] = []
    for variant in study.variants:
        for stage, values in inherited[variant.name].items():
            same = next((known for known in found if known[0] == stage and _about_equal(known[1], values)), None)
            if same:
                same[2].append(variant.label)
            else:
                found.append((stage, values, [variant.label]))
    return found


def _about_equal(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    """Equal but for the rounding of a mean over another number of seeds."""
    return all(math.isclose(first[field], second[field], rel_tol=1e-9) for field in FIELDS)


def _columns() -> list[Measure]:
    by_field = {measure.column.split("/")[1]: measure for measure in COSTS}
    return [by_field[field] for field in FIELDS]


def _cost_cells(values: Mapping[str, float], total: Mapping[str, float] | None, tone: str) -> list[Cell]:
    cells = []
    for field, measure in zip(FIELDS, _columns(), strict=True):
        value = values.get(field, math.nan)
        lines = () if total is None else (format_number(total.get(field), measure.kind),)
        cells.append(Cell(format_number(value, measure.kind), value, lines, tone))
    return cells


def _own_costs(study: Study, variant: Variant) -> dict[str, float]:
    found = {}
    for field, measure in zip(FIELDS, _columns(), strict=True):
        values = study.values(variant, measure.column)
        if values:
            found[field] = float(np.mean(values))
    return found


def inherited_costs(study: Study, variant: Variant) -> dict[str, dict[str, float]]:
    """{stage: costs} that the variant's finished runs were charged, mean over the runs."""
    runs = study.loaded.runs
    names = runs[(runs["variant"] == variant.name) & (runs["state"] == "finished")]["run"]
    stages: dict[str, list[dict[str, float]]] = {}
    for run in names:
        charged = (study.loaded.records[run]["status"].get("costs") or {}).get("inherited") or {}
        for stage, values in charged.items():
            if isinstance(values, dict) and any(
                number_or_nan(values.get(field)) for field in FIELDS if field in values
            ):
                stages.setdefault(stage, []).append(values)
    return {
        stage: {field: float(np.mean([number_or_nan(v.get(field, 0.0)) for v in many])) for field in FIELDS}
        for stage, many in stages.items()
    }


def repeats(study: Study) -> str:
    """How often a prompt counts, in words; empty without online runs."""
    found: dict[int, list[str]] = {}
    for variant in study.variants:
        runs = study.loaded.runs[study.loaded.runs["variant"] == variant.name]["run"]
        if not study.values(variant, "reward", finished=False):
            continue
        for run in runs[:1]:
            size = group_size(study, run)
            if size is not None:
                found.setdefault(size, []).append(variant.label)
    parts = [f"{size} times by {join(labels)}" for size, labels in found.items()]
    return f"Each prompt of a rollout was completed {join(parts)}." if parts else ""


def group_size(study: Study, run: str) -> int | None:
    size = (study.loaded.records[run]["definition"].get("hyperparameters") or {}).get("group_size")
    return size if isinstance(size, int) else None
