"""What everything cost: the shared start and the stages once, then each setting by itself and charged in full."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.inference.charged import needs_of, rests_on, spent, users_of
from analysis.measures import COSTS, Measure, format_number, join, number_or_nan
from analysis.report.document import Cell, Prose, Section, Table
from analysis.report.plots import Canvas
from analysis.report.sections.cells import setting
from analysis.study import Study, Variant
from workbench.tracking.words import plural

FIELDS = ("generated_tokens", "trained_tokens", "scored_tokens", "flops", "seconds")
Costs = dict[str, float]
STAGES = {
    "collect": "collecting samples",
    "ref_logprobs": "reference log-probs",
    "teacher_logprobs": "teacher log-probs",
}


def section(study: Study, canvas: Canvas) -> Section | None:
    """Lists what everything cost. Unlike tokens are not summed; the formula stands below the table."""
    text = (
        "What the runs were made from stands first, once; below it each setting's own training, and smaller what that "
        "comes to with its inherited stages charged in full, with the training of all that it rests on as well (its "
        "start, reward models, teacher, the models that its data was sampled from, and what these rest on), and with "
        "all of it shared out evenly among the runs that used it."
    )
    return Section("Costs", [Prose(text), table(study)])


def table(study: Study) -> Table:
    """The shared start and the inherited stages once each, then each variant's own costs, means over finished seeds."""
    rows: list[list[Cell]] = []
    flat: list[dict[str, Any]] = []

    def add(what: Cell, values: Costs, totals: Mapping[str, Costs]) -> None:
        rows.append([what, *_cost_cells(values, list(totals.values()), what.tone)])
        for part, numbers in {"own": values, **totals}.items():
            flat.append({"what": what.text, "part": part} | {field: numbers.get(field, math.nan) for field in FIELDS})

    for cell, values in _starts(study):
        add(cell, values, {})
    inherited = {variant.name: inherited_costs(study, variant) for variant in study.variants}
    for stage, values, labels in _distinct_stages(study, inherited):
        everyone = len(labels) == len(study.variants) > 1
        needed = f"inherited by {'every setting' if everyone else join(labels)}"
        what, _, source = stage.partition("/")
        name = STAGES.get(what, what) + (f" of {source}" if source else "")
        add(Cell(name, "", (needed,), "muted"), values, {})
    for variant in study.variants:
        own = _own_costs(study, variant)
        if own:
            totals = _totals(study, variant, own, inherited[variant.name])
            add(setting(variant, tuple(totals)), own, totals)
    heads = [("what", ""), *((m.label, m.unit) for m in _columns())]
    return Table("costs", heads, rows, flat, label="Costs", caption=_caption(study))


def _totals(study: Study, variant: Variant, own: Costs, inherited: Mapping[str, Costs]) -> dict[str, Costs]:
    """Own costs with more and more of what they rest on; only what differs from the one before."""
    full = _sum(own, *inherited.values())
    begun = [_share(study, run, shared=False) for run in _finished(study, variant)]
    shared = [_share(study, run, shared=True) for run in _finished(study, variant)]
    with_start = _sum(full, _mean_of([start for start, _ in begun]))
    amortised = _sum(own, *(_mean_of(list(parts)) for parts in zip(*shared, strict=True)))
    found = {}
    if full != own:
        found["charged in full"] = full
    if with_start != full:
        found["with all it rests on"] = with_start
    if amortised not in (own, full):
        found["amortised"] = amortised
    return found


def _share(study: Study, run: str, *, shared: bool) -> tuple[Costs, Costs]:
    """(of the runs, of the stages) that a run rests on; shared: divided by the runs of the study that do."""
    start: Costs = {}
    for name, record in rests_on(study, run).items():
        users = sum(name in rests_on(study, other) for other in study.loaded.records) if shared else 1
        start = _sum(start, {f: v / users for f, v in spent(record, FIELDS).items()})
    stages = study.loaded.records[run]["provenance"].get("stages") or {}
    rest: Costs = {}
    for stage, values in (_status_costs(study.loaded.records[run]).get("inherited") or {}).items():
        same = sum(
            (record["provenance"].get("stages") or {}).get(stage) == stages.get(stage)
            for record in study.loaded.records.values()
        )
        rest = _sum(rest, {f: number_or_nan(values.get(f, 0.0)) / (max(same, 1) if shared else 1) for f in FIELDS})
    return start, rest


def _starts(study: Study) -> list[tuple[Cell, Costs]]:
    """What every run that some run rests on spent, its inherited stages included, and which settings need it."""
    named = study.start.records if study.start is not None else {}
    records: dict[str, Mapping[str, Any]] = dict(named)
    for run in study.finals.loc[study.finals["finished"], "run"]:
        records |= rests_on(study, run)
    roles: dict[str, str] = {}
    for record in (*records.values(), *study.loaded.records.values()):
        roles |= needs_of(record)
    able = [variant.label for variant in study.variants if _finished(study, variant)]
    found = []
    for name, record in records.items():
        users = set(users_of(study, name))
        labels = [variant.label for variant in study.variants if users & set(_finished(study, variant))]
        whose = f"of {join(labels)}" if labels else "of no setting that is finished"
        whose = "shared by all" if labels == able and labels else whose
        cell = Cell(f"{roles.get(name, 'start')} {name}", "", (whose,), "muted")
        found.append((cell, spent(record, FIELDS)))
    return found


def _status_costs(record: Mapping[str, Any]) -> dict[str, Any]:
    return dict(record["status"].get("costs") or {})


def _finished(study: Study, variant: Variant) -> list[str]:
    runs = study.loaded.runs
    return list(runs.loc[(runs["variant"] == variant.name) & (runs["state"] == "finished"), "run"])


def _sum(*parts: Costs) -> Costs:
    """Field by field; what a part does not have counts as nothing, and what it could not count makes the sum NaN."""
    return {field: sum(part.get(field, 0.0) for part in parts) for field in FIELDS}


def _mean_of(parts: Sequence[Costs]) -> Costs:
    return {field: float(np.mean([part.get(field, 0.0) for part in parts])) for field in FIELDS} if parts else {}


def _caption(study: Study) -> str:
    return " ".join(
        [
            "Means over finished seeds. Tokens exclude padding; rollouts count as generated tokens, and their forward "
            "passes as FLOPs.",
            *([times] if (times := repeats(study)) else []),
            "FLOPs: forward 2 (N frozen + N trained) a token, backward 2 N frozen + 4 N trained; recomputation and "
            "attention added, of every pair of tokens that is computed (a window is made by a mask, which computes all "
            "pairs of the row; a sampled token looks at the window alone), by shapes and precision and not by the "
            "machine's kernels; input embedding excluded, the output head where a position is projected; a prompt "
            "counts as often as it is computed, once for all of its completions that a step learns from where the "
            "model's forward is our own, and again in every micro-batch. "
            "Experts count by those that are active, padding where it is computed, in the micro-batches asked for. "
            "Training time leaves out evaluation; it depends on the machine and on what "
            "ran beside it. Amortised: what runs rest on and the stages, divided by the runs of this report that "
            "used them.",
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


def _cost_cells(values: Costs, totals: Sequence[Costs], tone: str) -> list[Cell]:
    cells = []
    for field, measure in zip(FIELDS, _columns(), strict=True):
        value = values.get(field, math.nan)
        lines = tuple(format_number(total.get(field), measure.kind) for total in totals)
        cells.append(Cell(format_number(value, measure.kind), value, lines, tone))
    return cells


def _own_costs(study: Study, variant: Variant) -> dict[str, float]:
    found = {}
    for field, measure in zip(FIELDS, _columns(), strict=True):
        values = study.values(variant, measure.column)
        if values:
            found[field] = float(np.mean(values))
    return {"flops": math.nan, **found} if found else {}


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
    parts = [f"{plural(size, 'time')} by {join(labels)}" for size, labels in found.items()]
    return f"Each prompt of a rollout was completed {join(parts)}." if parts else ""


def group_size(study: Study, run: str) -> int | None:
    size = (study.loaded.records[run]["definition"].get("hyperparameters") or {}).get("group_size")
    return size if isinstance(size, int) else None
