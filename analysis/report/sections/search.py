"""The trials of a search: every setting that was tried with what it gave, slices along each dimension, and which
dimensions the measure depends on."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.measures import Measure, capital, format_number, plain
from analysis.report.document import Block, Cell, Figure, Panel, Prose, Section, Table
from analysis.report.plots import FIRST, SECOND, Canvas, hold, slug
from analysis.searched import is_unconfirmed
from analysis.study import Study, Variant, trials_of
from workbench.tracking.words import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 12
"""Trials up to which their table is not folded."""
FEWEST = 6
"""Trials below which importances are noise, and are not shown."""


@dataclass(frozen=True)
class Tried:
    """A trial: its mean over the seeds that finished, NaN without one; how many did; what it spent."""

    variant: Variant
    mean: float
    values: list[float]
    paused: str
    """Where it was left and what it gave there, in words; empty where it was not left on its way."""
    planned: int
    flops: float
    confirmed: bool


def section(study: Study, canvas: Canvas) -> Section | None:
    """What was tried by the searches that these settings come from; None without one."""
    searched = [plan for plan in study.plans if plan.get("trials")]
    if not searched or study.deciding is None:
        return None
    blocks: list[Block] = []
    for index, plan in enumerate(searched):
        suffix = f"_{index}" if len(searched) > 1 else ""
        blocks += _of_plan(study, canvas, plan, suffix)
    return Section("Search", blocks)


def _of_plan(study: Study, canvas: Canvas, plan: dict[str, Any], suffix: str) -> list[Block]:
    measure, trials = study.deciding, trials_of(study, plan)
    assert measure is not None, "the section asks for it"
    confirmed = set() if is_unconfirmed(plan) else {run["variant"] for run in plan["runs"]}
    tried = [_tried(trials, variant, measure, variant.name in confirmed) for variant in trials.variants]
    tried.sort(key=lambda one: _order(one, measure))
    blocks: list[Block] = [Prose(_in_words(plan, tried)), _table(tried, measure, suffix)]
    panels, importances = [], []
    for entry in plan["search"].get("spaces") or ():
        own = [one for one in tried if (one.variant.arm or None) == entry["arm"] and not math.isnan(one.mean)]
        for name, dimension in entry["space"].items() if len(own) > 1 else ():
            panels.append(_slice(canvas, own, measure, entry["arm"], name, dimension, suffix))
        importances += [(entry["arm"], found)] if (found := importances_of(own, entry["space"], measure)) else []
    if panels:
        see = "Where along each setting the best trials lie, and whether they lie at an end of its range."
        how = (
            "A dot is a trial, the mean over its finished seeds; ringed: confirmed on fresh seeds. The other settings "
        )
        blocks.append(Figure(panels, see, how + "differ from dot to dot."))
    blocks += [_importances(canvas, arm, found, suffix) for arm, found in importances]
    return blocks


def _tried(trials: Study, variant: Variant, measure: Measure, confirmed: bool) -> Tried:
    values = trials.values(variant, measure.column)
    rows = trials.finals[trials.finals["variant"] == variant.name]
    planned = int((trials.loaded.runs["variant"] == variant.name).sum())
    whole = len(values) == planned
    left, paused = trials.loaded.runs, ""
    left = left[(left["variant"] == variant.name) & (left["state"] == "paused")]
    if len(left):
        on_the_way = trials.values(variant, measure.column, finished=False)
        at = f"{float(np.mean(on_the_way)):.4g} at " if on_the_way else ""
        paused = f"{at}step {int(left['step'].max())}, and left there"
    flops = float(rows["cost/flops"].sum()) if "cost/flops" in rows and len(rows) else math.nan
    return Tried(variant, float(np.mean(values)) if whole else math.nan, values, paused, planned, flops, confirmed)


def _order(one: Tried, measure: Measure) -> float:
    return math.inf if math.isnan(one.mean) else -one.mean if measure.higher_is_better else one.mean


def _in_words(plan: Mapping[str, Any], tried: Sequence[Tried]) -> str:
    search = plan["search"]
    arms = {one.variant.arm: [other for other in tried if other.variant.arm == one.variant.arm] for one in tried}
    counts = "; ".join(f"{arm}: {len(own)}" if arm else str(len(own)) for arm, own in arms.items())
    failed = sum(math.isnan(one.mean) and not one.paused for one in tried)
    left = sum(bool(one.paused) for one in tried)
    text = f"Settings tried ({search['sampler']}): {counts}. A trial is judged by its mean over seeds"
    text += f"; {plural(failed, 'trial')} did not end with all of them" if failed else ""
    text += f"; {plural(left, 'trial')} did not go on from where the search judged it" if left else ""
    limits = [f"{value:g} {name}" for name, value in (search.get("budget") or {}).items() if value is not None]
    text += f". No trial began once an arm had spent {', '.join(limits)}" if limits else ""
    return f"{text}. The best of many looks better than it is: these values are no result, and nothing is tested here."


def _table(tried: Sequence[Tried], measure: Measure, suffix: str) -> Table:
    rows, flat = [], []
    for one in tried:
        tone = "best" if one.confirmed else "" if not math.isnan(one.mean) else "muted"
        seeds = f"{len(one.values)} of {one.planned}"
        each = (
            (one.paused,)
            if one.paused
            else (" ".join(measure.text(value) for value in one.values),)
            if len(one.values) > 1
            else ()
        )
        rows.append(
            [
                Cell(one.variant.label, tone=tone),
                Cell(measure.text(one.mean), one.mean, each, tone),
                Cell(seeds),
                Cell(format_number(one.flops, "flops"), one.flops),
            ]
        )
        flat.append(
            {"variant": one.variant.name, "arm": one.variant.arm, **dict(one.variant.point)}
            | {"measure": measure.column, "mean": one.mean, "finished_seeds": len(one.values), "flops": one.flops}
            | {"confirmed": one.confirmed}
        )
    heads = [("setting", ""), (measure.label, f"mean, {measure.unit}"), ("seeds", ""), ("FLOPs", "all seeds")]
    folded = "All trials" if len(rows) > SHOWN else ""
    caption = "Marked: trained again on fresh seeds." if any(one.confirmed for one in tried) else ""
    return Table(f"trials{suffix}", heads, rows, flat, label="Trials, the best first", caption=caption, folded=folded)


def _slice(
    canvas: Canvas, tried: Sequence[Tried], measure: Measure, arm: str | None, name: str, dimension: Any, suffix: str
) -> Panel:
    label = f"{arm}, {name}" if arm else name
    draw = functools.partial(_draw_slice, tried=tried, measure=measure, name=name, label=label, dimension=dimension)
    return canvas.panel(f"search_{slug(label)}{suffix}", f"{measure.label} of every trial by {label}", draw)


def _draw_slice(
    axes: Axes, tried: Sequence[Tried], measure: Measure, name: str, label: str, dimension: Mapping[str, Any]
) -> None:
    options = [plain(value) for value in dimension.get("choice") or ()]
    for one in tried:
        value = dict(one.variant.point)[name]
        place = options.index(plain(value)) if options else value
        axes.plot(
            [place], [one.mean], "o", color=FIRST, markersize=5,
            markeredgecolor=SECOND if one.confirmed else FIRST, markeredgewidth=2 if one.confirmed else 0,
        )  # fmt: skip
    if options:
        axes.set_xticks(range(len(options)), options, fontsize=7.5)
        axes.set_xlim(-0.5, len(options) - 0.5)
    elif "log" in dimension:
        axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_title(measure.axis_label, loc="left", fontsize=9)
    hold(axes, measure)


def importances_of(tried: Sequence[Tried], space: Mapping[str, Any], measure: Measure) -> dict[str, float]:
    """The share of each dimension in what sets the best trials apart, by Optuna's PED-ANOVA (Watanabe 2023), the
    largest first; empty where Optuna is not installed, or with too few trials or one dimension."""
    if len(tried) < FEWEST or len(space) < 2 or len({one.mean for one in tried}) < 2:
        return {}
    try:
        import optuna
    except ImportError:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = {name: _distribution(optuna.distributions, dimension) for name, dimension in space.items()}
    direction = "maximize" if measure.higher_is_better else "minimize"
    study = optuna.create_study(direction=direction)
    for one in tried:
        point = dict(one.variant.point)
        params = {name: plain(point[name]) if "choice" in space[name] else point[name] for name in space}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=one.mean))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return {str(name): float(share) for name, share in evaluator.evaluate(study).items()}


def _distribution(kinds: Any, dimension: Mapping[str, Any]) -> Any:
    if "choice" in dimension:
        return kinds.CategoricalDistribution([plain(value) for value in dimension["choice"]])
    if "int" in dimension:
        return kinds.IntDistribution(*dimension["int"])
    return kinds.FloatDistribution(*(dimension.get("log") or dimension["linear"]), log="log" in dimension)


def _importances(canvas: Canvas, arm: str | None, found: Mapping[str, float], suffix: str) -> Figure:
    total = sum(found.values()) or 1.0
    shares = {name: value / total for name, value in found.items()}
    label = f"Importance{f' in {arm}' if arm else ''}"

    def draw(axes: Axes) -> None:
        names = list(reversed(shares))
        axes.barh(range(len(names)), [shares[name] for name in names], color=FIRST)
        axes.set_yticks(range(len(names)), names, fontsize=7.5)
        axes.set_xlabel("share")
        axes.set_title(label, loc="left", fontsize=9)
        box, left = axes.get_position(), min(0.5, 0.12 + 0.0165 * max(map(len, names)))
        axes.set_position((left, box.y0, 0.97 - left, box.height))

    panel = canvas.panel(f"search_{slug(label)}{suffix}", capital(label), draw)
    see = "Which settings tell the best tenth of the trials from the others."
    how = "PED-ANOVA of Optuna, shares of the sum. With few trials these are rough."
    return Figure([panel], see, how)
