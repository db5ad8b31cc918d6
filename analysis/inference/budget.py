"""Methods at equal cost: one axis at a time, everything charged in full, never beyond what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analysis import stats
from analysis.inference import charged, comparability
from analysis.inference.claims import Comparison
from analysis.measures import COSTS, STEPS, Measure, format_number, join
from analysis.study import Study, Variant
from workbench.tracking.words import plural

AXES = ("cost/flops", "cost/trained_tokens", "cost/generated_tokens", "time/seconds", "step")
UNLIKE = 1.1
"""The ratio of the most to the least FLOPs of the settings, from which on their final values are not at equal cost."""
ENOUGH = 5
"""How many evaluations of a run, the one before training included, make its curve more than a sketch."""
HELD = 2
"""Evaluations in a row that must be at a threshold before it counts as reached."""


@dataclass(frozen=True)
class Curve:
    """One finished run's evaluations over a cost, which includes what it inherited, and its start where not all runs
    rest on that; costs rise."""

    variant: Variant
    costs: list[float]
    values: list[float]


def compares_costs(study: Study) -> bool:
    """Whether cost is part of the question: a budget, several trainers, or rollouts, and two settings or more."""
    definitions = [record["definition"] for record in study.loaded.records.values()]
    trainers = {definition.get("trainer") for definition in definitions if definition}
    asked = any(definition.get("budget") for definition in definitions) or len(trainers) > 1 or study.has("reward")
    return asked and len(study.variants) > 1


def axes(study: Study, measure: Measure) -> list[Measure]:
    """The costs that two settings or more spent while they were evaluated, and that are alike in all runs."""
    found = [cost for column in AXES for cost in (*COSTS, STEPS) if cost.column == column]
    return [cost for cost in found if len({c.variant.name for c in curves(study, measure, cost)}) > 1]


def curves(study: Study, measure: Measure, cost: Measure) -> list[Curve]:
    """The curves of every finished run that spent some of this cost between its evaluations; none where the cost is
    refused."""
    key = ("curves", measure.column, cost.column)
    if key not in study.memo:
        study.memo[key] = _curves(study, measure, cost)
    return list(study.memo[key])


def _curves(study: Study, measure: Measure, cost: Measure) -> list[Curve]:
    table = study.loaded.metrics
    if measure.column not in table or cost.column not in table or cost.column in _refused(study):
        return []
    finished = set(study.finals.loc[study.finals["finished"], "run"])
    before = charged.start_costs(study, cost.column)
    found = []
    for variant in study.variants:
        own = table[(table["variant"] == variant.name) & table["run"].isin(finished)]
        for name, run in own.sort_values("step", kind="stable").groupby("run", sort=True):
            points = run[[cost.column, measure.column]].dropna().drop_duplicates(cost.column)
            if len(points) > 1:
                costs = points[cost.column] + before.get(str(name), 0.0)
                found.append(Curve(variant, list(costs), list(points[measure.column])))
    return found


def common_range(found: list[Curve]) -> tuple[float, float]:
    """(from, to) that every curve covers; empty where from is not below to."""
    return max((c.costs[0] for c in found), default=0.0), min((c.costs[-1] for c in found), default=0.0)


def refusals(study: Study) -> list[str]:
    """Why seconds, FLOPs or tokens are not compared."""
    return list(_refused(study).values())


def _refused(study: Study) -> dict[str, str]:
    """Costs that are not alike in all runs, and why."""
    places = {
        str((record["status"].get("threads"), record["status"].get("device"), hardware.get("cpu"), hardware.get("gpu")))
        for record in study.loaded.records.values()
        if record["status"]
        for hardware in [record["provenance"].get("hardware") or {}]
    }
    differ = "Not compared by seconds: the runs differ in threads, device or machine"
    found = {
        cost.column: f"Not compared by {cost.label}: what a start spent that not all settings share is not recorded"
        for cost in COSTS
        if cost.column in AXES and any(map(math.isnan, charged.start_costs(study, cost.column).values()))
    }
    found |= {"time/seconds": differ} if len(places) > 1 else {}
    counted = comparability.flops_refusals(study)
    return found | ({"cost/flops": counted[0].removesuffix(".")} if counted else {})


def uncovered(study: Study, measure: Measure) -> list[str]:
    """The costs of which no amount was spent by every setting that is on their axis."""
    apart = []
    for cost in axes(study, measure):
        low, high = common_range(curves(study, measure, cost))
        if not low < high:
            apart.append(cost.label)
    return [f"No range that every setting covers, and so no comparison in numbers: {join(apart)}"] if apart else []


def coarse(study: Study, measure: Measure) -> list[str]:
    """Settings that were evaluated too seldom for their curves to be more than a few straight lines."""
    found = []
    for variant in study.variants:
        sizes = [len(c.costs) for c in curves(study, measure, STEPS) if c.variant is variant]
        if sizes and min(sizes) < ENOUGH:
            found.append(f"{variant.label} ({min(sizes)})")
    return (
        [f"Evaluated fewer than {ENOUGH} times, so that areas under its curve are rough: {join(found)}"]
        if found
        else []
    )


def compare_at_end(study: Study, measure: Measure, cost: Measure) -> list[Comparison]:
    """Every two settings at the end of the range of this cost that all cover, by Welch's test on seeds; Holm over the
    pairs of this cost. Empty without such a range, and of a search that is not confirmed."""
    found = curves(study, measure, cost)
    low, high = common_range(found)
    if study.is_unconfirmed or not low < high:
        return []
    values = {
        variant: [stats.value_at(c.costs, c.values, high) for c in found if c.variant is variant]
        for variant in study.variants
    }
    able = [variant for variant, seeds in values.items() if len(seeds) >= 2]
    tested = [
        (a, b, stats.welch(values[a], values[b]), stats.permutation_p(values[a], values[b], np.random.default_rng(0)))
        for a, b in combinations(able, 2)
    ]
    adjusted = stats.holm([test.p for _, _, test, _ in tested])
    return [Comparison(a, b, test, p, exact) for (a, b, test, exact), p in zip(tested, adjusted, strict=True)]


def at_equal_flops(study: Study, measure: Measure) -> list[str]:
    """What may be claimed at equal FLOPs, where the final values did not cost alike."""
    cost = next(known for known in COSTS if known.column == "cost/flops")
    found = compare_at_end(study, measure, cost)
    if not found or not unlike_costs(study):
        return []
    _, high = common_range(curves(study, measure, cost))
    sign = 1.0 if measure.higher_is_better else -1.0
    apart = []
    for c in found:
        if c.separated:
            first, second = (c.first, c.second) if sign * c.test.difference > 0 else (c.second, c.first)
            apart.append(f"{first.label} is better than {second.label} (by {measure.text(abs(c.test.difference))})")
    where = f"At equal FLOPs ({format_number(high, 'flops')}, the most that all of them spent)"
    said = join(apart) if apart else "no two settings can be told apart"
    return [f"{where}, {said}; Welch on seeds, Holm over {plural(len(found), 'pair')}, level 0.05."]


def flags(study: Study) -> list[str]:
    """Settings whose runs ended with part of their budget unspent."""
    found: dict[str, list[float]] = {}
    labels = {variant.name: variant.label for variant in study.variants}
    for row in study.loaded.runs.to_dict("records"):
        limits = study.loaded.records[row["run"]]["definition"].get("budget") or {}
        stopped = row.get("stopped_by")
        if row["state"] != "finished" or (isinstance(stopped, str) and stopped.startswith("budget")):
            continue
        shares = [_spent(study, row["run"], name) / limit for name, limit in limits.items() if limit]
        known = [share for share in shares if not math.isnan(share)]
        if known and max(known) < 1:
            found.setdefault(labels.get(row["variant"], row["variant"]), []).append(max(known))
    if not found:
        return []
    parts = [f"{label} ({min(shares):.0%})" for label, shares in found.items()]
    return [
        f"Not all spent their budget: {join(parts)} ended for another reason before it was used. At their end they are "
        "compared at less cost than the others; the curves at equal cost show them at the same."
    ]


def unlike_costs(study: Study) -> list[str]:
    """Says that the settings' final values are not at equal FLOPs, where they are not."""
    if not compares_costs(study) or "cost/flops" in _refused(study):
        return []
    runs = study.finals.loc[study.finals["finished"], ["run", "variant"]]
    before = charged.start_costs(study, "cost/flops")
    spent = {
        variant.label: float(np.mean([_spent(study, run, "flops") + before.get(run, 0.0) for run in own["run"]]))
        for variant in study.variants
        if len(own := runs[runs["variant"] == variant.name])
    }
    known = {label: flops for label, flops in spent.items() if flops > 0}
    if len(known) < 2 or max(known.values()) < UNLIKE * min(known.values()):
        return []
    least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    few, many = (format_number(known[label], "flops") for label in (least, most))
    return [
        f"These are final values, which did not cost alike: from {few} FLOPs at {least} to {many} at {most}, what was "
        "inherited included, and the training of runs that only some settings rest on. What each reaches at the "
        "same cost stands under At equal cost."
    ]


def _spent(study: Study, run: str, limit: str) -> float:
    column = {"flops": "cost/flops", "tokens": "cost/trained_tokens", "seconds": "time/seconds"}.get(limit, "")
    table = study.loaded.metrics
    return float(table.loc[table["run"] == run, column].max()) if column in table else math.nan


def threshold(study: Study, measure: Measure) -> float:
    """The level whose cost is told: half-way from the start to the best mean, of the best mean without one start."""
    means = [float(np.mean(study.values(v, measure.column))) for v in study.compared(measure.column)]
    start = study.start_value(measure.column)
    return (max(means) + (0.0 if math.isnan(start) else start)) / 2 if means else math.nan
