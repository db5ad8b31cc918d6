"""Exact match against KL from the start: what was gained, and how far the policy moved for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import stats
from analysis.measures import BY_COLUMN, Measure, capital, join_few
from analysis.report.document import Cell, Figure, Panel, Section, Table
from analysis.report.plots import INK, MUTED, Canvas, hold, slug
from analysis.report.sections.cells import setting, with_interval
from analysis.study import Study, Variant
from workbench.tracking.names import KL_START

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWS = 10_000
SHOWN = 12
"""Settings up to which the table is not folded."""


def section(study: Study, canvas: Canvas) -> Section | None:
    """The frontier of final values and the way there, of settings whose KL has one reference (comparability)."""
    measure = study.deciding
    if measure is None or not measure.higher_is_better or not study.has(KL_START):
        return None
    points = _points(study, measure)
    if not points:
        return None
    title = f"{capital(measure.label)} against KL from the start"
    return Section(title, [figure(canvas, measure, points), table(measure, points)])


@dataclass(frozen=True)
class Point:
    """A setting's finals: KL and value over its seeds; whether its means are on the frontier, and how probably."""

    variant: Variant
    kl: list[float]
    values: list[float]
    on_frontier: bool = False
    probability: float = math.nan


def _points(study: Study, measure: Measure) -> list[Point]:
    found = []
    for variant in study.compared(measure.column):
        kl, values = study.values(variant, KL_START), study.values(variant, measure.column)
        if len(kl) == len(values) > 0:
            found.append(Point(variant, kl, values))
    start = study.start_value(measure.column)
    fixed = [] if math.isnan(start) else [(0.0, start)]
    costs, heights = (
        [float(np.mean(side)) for side in sides] for sides in ([p.kl for p in found], [p.values for p in found])
    )
    best = set(stats.frontier([*costs, *(x for x, _ in fixed)], [*heights, *(y for _, y in fixed)]))
    chances = stats.frontier_probability(
        [p.kl for p in found], [p.values for p in found], np.random.default_rng(0), DRAWS, fixed
    )
    return [
        replace(point, on_frontier=i in best, probability=chance)
        for i, (point, chance) in enumerate(zip(found, chances, strict=True))
    ]


def figure(canvas: Canvas, measure: Measure, points: Sequence[Point]) -> Figure:
    ahead = [_with_chance(p) for p in points if p.on_frontier]
    behind = [_with_chance(p) for p in points if not p.on_frontier]
    frontier = f"the frontier, where no other has both less KL and more {measure.label}"
    see = f"By their means on {frontier}: {join_few(ahead, 6)}." if ahead else f"By their means none is on {frontier}."
    if behind:
        see += f" Behind it: {join_few(behind, 6)}."
    if any(not math.isnan(p.probability) for p in points):
        see += " In brackets: how probable that is, given the scatter of the seeds."
    how = (
        "KL is the report's one estimator: on held-out prompts, samples at temperature 1 from the model, the "
        "full-vocabulary KL to the start summed over positions, mean over prompts, in nats. Left: final means with "
        "95 % t intervals both ways, dots for seeds, + for the start, dotted the non-dominated set of means. Right: "
        "the mean over seeds at each evaluation."
    )
    return Figure(_panels(canvas, measure), see, how, legend=True)


def _with_chance(point: Point) -> str:
    label = point.variant.label
    return label if math.isnan(point.probability) else f"{label} ({point.probability:.2f})"


def table(measure: Measure, points: Sequence[Point]) -> Table:
    """Every setting's place, and how sure it is."""
    rows, flat = [], []
    for point in points:
        kl, value = (
            BY_COLUMN[KL_START].within(stats.t_interval(point.kl)),
            measure.within(stats.t_interval(point.values)),
        )
        chance = "one seed" if math.isnan(point.probability) else f"{point.probability:.2f}"
        rows.append(
            [
                setting(point.variant, (f"{len(point.kl)} seed{'s' if len(point.kl) > 1 else ''}",)),
                with_interval(kl, BY_COLUMN[KL_START]),
                with_interval(value, measure),
                Cell("yes" if point.on_frontier else "no", float(point.on_frontier)),
                Cell(chance, point.probability),
            ]
        )
        flat.append(
            {"variant": point.variant.name, "seeds": len(point.kl), "kl": kl.mean, "kl_low": kl.low, "kl_high": kl.high}
            | {"value": value.mean, "value_low": value.low, "value_high": value.high, "measure": measure.column}
            | {"on_frontier": point.on_frontier, "probability": point.probability}
        )
    heads = [
        ("setting", ""), ("KL from the start", "nats per sequence"), (measure.label, measure.unit),
        ("means on the frontier", ""), ("probability of being on it", ""),
    ]  # fmt: skip
    caption = (
        f"95 % t intervals over seeds. Probability: the share of {DRAWS:,} draws in which no other setting and not the "
        "start beats it; in a draw each setting's mean KL and value come together from Student's distribution that its "
        "seeds give (a parametric bootstrap: resampling a few seeds would spread too little). A setting with one seed "
        "has none, and beats no other in the draws."
    )
    label = f"Frontier of {measure.label} against KL"
    return Table("frontier", heads, rows, flat, label=label, caption=caption, folded=label if len(rows) > SHOWN else "")


def _panels(canvas: Canvas, measure: Measure) -> list[Panel]:
    """Final values against KL with the frontier, and the way there during training."""
    name = slug(measure.label)
    alt = f"{measure.label} against KL from the start"
    return [
        canvas.panel(
            f"{name}_against_kl", f"{alt}, final values and frontier", lambda axes: _draw_final(axes, canvas, measure)
        ),
        canvas.panel(
            f"{name}_kl_paths", f"{alt}, path during training", lambda axes: _draw_paths(axes, canvas, measure)
        ),
    ]


def _draw_final(axes: Axes, canvas: Canvas, measure: Measure) -> None:
    study, kl = canvas.study, KL_START
    start = study.start_value(measure.column)
    points = [(0.0, start)] if not math.isnan(start) else []
    for variant in study.compared(measure.column):
        style = canvas.styles[variant.name]
        x, y = study.values(variant, kl), study.values(variant, measure.column)
        if len(x) != len(y) or not x:
            continue
        a, b = BY_COLUMN[kl].within(stats.t_interval(x)), measure.within(stats.t_interval(y))
        points.append((a.mean, b.mean))
        bars = {"xerr": [[a.mean - a.low], [a.high - a.mean]], "yerr": [[b.mean - b.low], [b.high - b.mean]]}
        known = {key: np.nan_to_num(np.array(value)) for key, value in bars.items()}
        axes.errorbar(
            [a.mean],
            [b.mean],
            **known,
            color=style.light,
            marker=style.marker,
            markersize=6,
            elinewidth=1,
            zorder=4,
        )
        axes.plot(x, y, ".", color=style.light, markersize=4.5, alpha=0.55, zorder=3)
    best = stats.frontier([p[0] for p in points], [p[1] for p in points])
    if len(best) > 1:
        axes.step(
            [points[i][0] for i in best], [points[i][1] for i in best], where="post", color=MUTED, linewidth=1.2,
            linestyle=(0, (2, 2)), zorder=2,
        )  # fmt: skip
    _frame(axes, f"final {measure.axis_label}", measure, start, kl)


def _draw_paths(axes: Axes, canvas: Canvas, measure: Measure) -> None:
    columns = [KL_START, measure.column]
    for variant, table in finished_metrics(canvas.study):
        means = table.groupby("step")[columns].mean().dropna()
        style = canvas.styles[variant.name]
        axes.plot(
            means[columns[0]],
            means[columns[1]],
            color=style.light,
            marker=style.marker,
            markersize=3.5,
            linewidth=1.6,
        )
    start = canvas.study.start_value(measure.column)
    _frame(axes, f"{measure.label} during training", measure, start, KL_START)


def _frame(axes: Axes, title: str, measure: Measure, start: float, kl: str) -> None:
    """Title, limits and the start's place, on axes of a measure over the column kl."""
    if not math.isnan(start):
        axes.plot([0], [start], marker="+", markersize=9, color=INK, markeredgewidth=1.6, zorder=5)
    axes.set_xlabel("KL from the start (nats per sequence)")
    axes.set_title(title, loc="left", fontsize=9)
    hold(axes, measure)
    hold(axes, BY_COLUMN[kl], "x")


def finished_metrics(study: Study) -> list[tuple[Variant, Any]]:
    """Every variant's metrics: of its finished runs, or of all where none finished."""
    finished = set(study.finals.loc[study.finals["finished"], "run"])
    found = []
    for variant in study.variants:
        table = study.loaded.metrics[study.loaded.metrics["variant"] == variant.name]
        own = table[table["run"].isin(finished)]
        if len(table):
            found.append((variant, own if len(own) else table))
    return found
