"""What everything cost: the shared start and the stages once, then each setting by itself and charged in full."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis.inference.charged import start_of, unshared_starts
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
        "comes to with its inherited stages charged in full, with the start as well, and with both shared out evenly "
        "among the runs that used them."
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

    of_some = _begun_by_some(study)
    for run, values in starts(study).items():
        whose = f"of {join(of_some[run])}" if run in of_some else "shared by all"
        add(Cell(f"start {run}", "", (whose,), "muted"), values, {})
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
        found["with the start"] = with_start
    if amortised not in (own, full):
        found["amortised"] = amortised
    return found


def _share(study: Study, run: str, *, shared: bool) -> tuple[Costs, Costs]:
    """(of its chain of starts, of its stages) what a run rests on; shared: divided by the runs of the study that do."""
    chain, known = [], study.start.records if study.start is not None else {}
    name = start_of(study.loaded.records[run])
    while name in known and name not in chain:
        chain.append(name)
        name = start_of(known[name])
    users = [other for other in study.loaded.records if start_of(study.loaded.records[other]) == (chain or [""])[0]]
    start = _sum(*(_spent(known[name]) for name in chain)) if chain else {}
    stages = study.loaded.records[run]["provenance"].get("stages") or {}
    rest: Costs = {}
    for stage, values in (_status_costs(study.loaded.records[run]).get("inherited") or {}).items():
        same = sum(
            (record["provenance"].get("stages") or {}).get(stage) == stages.get(stage)
            for record in study.loaded.records.values()
        )
        rest = _sum(rest, {f: number_or_nan(values.get(f, 0.0)) / (max(same, 1) if shared else 1) for f in FIELDS})
    return {f: v / (max(len(users), 1) if shared else 1) for f, v in start.items()}, rest


def _begun_by_some(study: Study) -> dict[str, list[str]]:
    """By start the settings that rest on it, where not all do."""
    unshared = unshared_starts(study)
    found: dict[str, list[str]] = {}
    for variant in study.variants:
        for start in dict.fromkeys(name for run in _finished(study, variant) for name in unshared.get(run, {})):
            found.setdefault(start, []).append(variant.label)
    return found


def starts(study: Study) -> dict[str, Costs]:
    """What each start spent by itself."""
    return {run: _spent(record) for run, record in study.start.records.items()} if study.start is not None else {}


def _spent(record: Mapping[str, Any]) -> Costs:
    return {field: number_or_nan(_status_costs(record).get(field)) for field in FIELDS}


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
            "ran beside it. Amortised: the start and the stages divided by the runs of this report that used them.",
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
