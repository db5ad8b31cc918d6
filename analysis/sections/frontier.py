"""Exact match against KL from the start: what was gained, and how far the policy moved for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import stats
from analysis.document import Figure, Panel, Section
from analysis.measures import Measure, capital, join
from analysis.plots import INK, MUTED, Canvas, slug
from analysis.study import Study, Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def section(study: Study, canvas: Canvas) -> Section | None:
    """The frontier of final values and the way there, of settings whose KL has one reference (comparability)."""
    measure = study.deciding
    if measure is None or "exact_match" not in measure.column or not study.has("eval/kl_start"):
        return None
    title = f"{capital(measure.label)} against KL from the start"
    return Section(title, [figure(study, canvas, measure)])


def figure(study: Study, canvas: Canvas, measure: Measure) -> Figure:
    points = []
    for variant in study.compared(measure.column):
        kl, value = study.values(variant, "eval/kl_start"), study.values(variant, measure.column)
        if kl and value:
            points.append((variant.label, sum(kl) / len(kl), sum(value) / len(value)))
    start = study.start_value(measure.column)
    everything = [("the start", 0.0, start), *points]
    best = [everything[i][0] for i in stats.frontier([p[1] for p in everything], [p[2] for p in everything])]
    beaten = [label for label, *_ in points if label not in best]
    see = f"On the frontier (no other mean has both less KL and more exact match): {join(best)}."
    if beaten:
        see += f" {join(beaten)} {'pay' if len(beaten) > 1 else 'pays'} more KL for no more exact match than another."
    how = (
        "KL is the report's one estimator: on held-out prompts, samples at temperature 1 from the model, the "
        "full-vocabulary KL to the start summed over positions, mean over prompts, in nats. Left: final means with "
        "95 % t intervals both ways, dots for seeds, + for the start, dotted the non-dominated set of means. Right: "
        "the mean over seeds at each evaluation. The frontier is drawn through means and carries no test of its own."
    )
    return Figure(_panels(canvas, measure), see, how, legend=True)


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
    study, kl = canvas.study, "eval/kl_start"
    start = study.start_value(measure.column)
    points = [(0.0, start)] if not math.isnan(start) else []
    for variant in study.compared(measure.column):
        style = canvas.styles[variant.name]
        x, y = study.values(variant, kl), study.values(variant, measure.column)
        if len(x) != len(y) or not x:
            continue
        a, b = stats.t_interval(x), stats.t_interval(y)
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
    if not math.isnan(start):
        axes.plot([0], [start], marker="+", markersize=9, color=INK, markeredgewidth=1.6, zorder=5)
    axes.set_xlabel("KL from the start (nats per sequence)")
    axes.set_title(f"final {measure.axis_label}", loc="left", fontsize=9)


def _draw_paths(axes: Axes, canvas: Canvas, measure: Measure) -> None:
    columns = ["eval/kl_start", measure.column]
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
    if not math.isnan(start):
        axes.plot([0], [start], marker="+", markersize=9, color=INK, markeredgewidth=1.6, zorder=5)
    axes.set_xlabel("KL from the start (nats per sequence)")
    axes.set_title(f"{measure.label} during training", loc="left", fontsize=9)


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
