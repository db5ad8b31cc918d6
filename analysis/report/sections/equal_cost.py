"""Settings at equal cost, one cost at a time: curves, what each reached for the same, and what half the gain cost."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from analysis import stats
from analysis.inference import budget
from analysis.measures import Measure, capital, format_number, format_p, power_of_ten
from analysis.report.document import Cell, Figure, Panel, Section, Table
from analysis.report.plots import MUTED, Canvas, hold, slug
from analysis.report.sections.cells import setting, signed, with_interval
from analysis.study import Study, starts_of
from workbench.tracking.words import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 12
"""Comparisons up to which their table is not folded."""


def section(study: Study, canvas: Canvas) -> Section | None:
    """Compares settings at equal cost; None where cost is no part of the question."""
    measure = study.deciding
    if measure is None or not budget.compares_costs(study):
        return None
    found = Section("At equal cost", [])
    if (drawn := figure(study, canvas, measure)).panels:
        found.blocks.append(drawn)
    if (numbers := table(study, measure)) is not None:
        found.blocks.append(numbers)
    if (tests := comparisons(study, measure)) is not None:
        found.blocks.append(tests)
    return found if found.blocks else None


def figure(study: Study, canvas: Canvas, measure: Measure) -> Figure:
    shown = budget.axes(study, measure)
    see = (
        f"{capital(measure.label)} for what it cost, one axis at a time: a curve that lies above another reaches more "
        "for the same."
    )
    how = (
        "Every cost is charged in full to every setting that needs it: collecting pairs, reference, rollouts; so a "
        "curve begins at what was spent before its first step. The training of a run that all settings rest on is "
        "charged to none, and of one that only some rest on (a start, a reward model, a teacher, a model that data was "
        "sampled from) to those in full, also where a budget leaves it out. Faint: every run; bold: the mean over "
        "seeds, between evaluations (the marks) on straight lines and never beyond them; dotted: where the common "
        "range of all settings ends. A setting that spends none of a cost as it trains is not on that axis. A step is "
        "not alike across trainers: that axis compares settings of one."
    )
    drawn = panels(study, canvas, measure, shown)
    remarks = [*budget.refusals(study), *budget.uncovered(study, measure), *budget.coarse(study, measure)]
    return Figure(drawn, see, how, legend=True, remarks=remarks)


def table(study: Study, measure: Measure) -> Table | None:
    """Every setting on every axis: its value where the common range ends, its mean over the range, and what half of the
    best gain cost. None where no axis has a common range."""
    if not budget.compares_costs(study) or measure.higher_is_better is not True:
        return None
    threshold = budget.threshold(study, measure)
    rows, flat = [], []
    for cost in budget.axes(study, measure):
        found = budget.curves(study, measure, cost)
        low, high = budget.common_range(found)
        if not low < high:
            continue
        span = f"{format_number(low, cost.kind)} to {format_number(high, cost.kind)}"
        for variant in study.variants:
            own = [curve for curve in found if curve.variant is variant]
            if not own:
                continue
            at_end, over = (
                study.measured(measure).within(stats.t_interval(values))
                for values in (
                    [stats.value_at(c.costs, c.values, high) for c in own],
                    [stats.mean_over_range(c.costs, c.values, low, high) for c in own],
                )
            )
            crossed = [stats.first_held(c.costs, c.values, threshold, budget.HELD) for c in own]
            reached = [value for value in crossed if not math.isnan(value)]
            median = float(np.median(reached)) if reached else math.nan
            rows.append(
                [
                    Cell(cost.label, None, (span,)),
                    setting(variant),
                    *(with_interval(interval, measure) for interval in (at_end, over)),
                    Cell(format_number(median, cost.kind), median, (f"{len(reached)} of {plural(len(own), 'seed')}",)),
                ]
            )
            names = ("mean", "low", "high")
            flat.append(
                {"axis": cost.column, "variant": variant.name, "from": low, "to": high, "seeds": len(own)}
                | {f"at_end_{name}": getattr(at_end, name) for name in names}
                | {f"over_range_{name}": getattr(over, name) for name in names}
                | {"threshold": threshold, "reached": len(reached), "cost_to_threshold": median}
            )
    columns = [
        ("cost", "common range"), ("setting", ""), ("at its end", measure.label),
        ("mean over it", "area under the curve"), (f"cost of {measure.text(threshold)}", "median of seeds"),
    ]  # fmt: skip
    caption = (
        "One cost at a time, over the range that every setting covers. Values between two evaluations lie on the "
        "straight line between them; nothing is extrapolated. Intervals are t over seeds. A value counts as reached "
        "once two evaluations in a row are at it or above; the last column is the median of the seeds that reached it "
        "and counts those that did."
    )
    label = "Settings at equal cost"
    return Table("equal_cost", columns, rows, flat, label=label, caption=caption) if rows else None


def comparisons(study: Study, measure: Measure) -> Table | None:
    """Every two settings where the common range of a cost ends; None without two seeds or a range."""
    rows, flat = [], []
    for cost in budget.axes(study, measure):
        _, high = budget.common_range(budget.curves(study, measure, cost))
        for c in budget.compare_at_end(study, measure, cost):
            t = c.test
            limits = "" if math.isnan(t.low) else f"{signed(t.low, measure)} to {signed(t.high, measure)}"
            rows.append(
                [
                    Cell(cost.label, None, (format_number(high, cost.kind),)),
                    setting(c.first),
                    setting(c.second),
                    Cell(signed(t.difference, measure), t.difference, (limits,) if limits else ()),
                    Cell(format_p(t.p), t.p),
                    Cell(format_p(c.adjusted), c.adjusted, tone="best" if c.separated else ""),
                ]
            )
            flat.append(
                {"axis": cost.column, "at": high, "first": c.first.name, "second": c.second.name}
                | {"difference": t.difference, "low": t.low, "high": t.high, "t": t.t, "df": t.df}
                | {"p_welch": t.p, "p_holm": c.adjusted, "p_permutation": c.exact.p}
            )
    if not rows:
        return None
    caption = (
        "First less second, at the last amount of each cost that every setting on its axis spent. Welch's test on "
        "seeds; Holm over the pairs of one cost. Costs are other ways to ask one question, not further methods: to "
        "read off the kindest of them is a choice after the fact."
    )
    heads = [("cost", "at"), ("first", ""), ("second", ""), ("difference", ""), ("Welch", ""), ("Holm", "")]
    label = "Settings against each other at equal cost"
    folded = f"{label}: {plural(len(rows), 'comparison')}" if len(rows) > SHOWN else ""
    return Table("equal_cost_tests", heads, rows, flat, label=label, caption=caption, folded=folded)


def panels(study: Study, canvas: Canvas, measure: Measure, shown: list[Measure]) -> list[Panel]:
    """The measure over each cost."""
    return [
        canvas.panel(
            f"{slug(measure.label)}_by_{slug(cost.label)}",
            f"{measure.label} over {cost.label}",
            functools.partial(_draw, canvas=canvas, measure=measure, cost=cost),
        )
        for cost in shown
    ]


def _draw(axes: Axes, canvas: Canvas, measure: Measure, cost: Measure) -> None:
    study = canvas.study
    found = budget.curves(study, measure, cost)
    scale = _scale(max(curve.costs[-1] for curve in found))
    for variant in study.variants:
        own = [curve for curve in found if curve.variant is variant]
        if not own:
            continue
        style = canvas.styles[variant.name]
        for curve in own:
            axes.plot(np.array(curve.costs) / 10**scale, curve.values, color=style.light, linewidth=0.8, alpha=0.35)
        low, high = budget.common_range(own)
        if low < high:
            costs = {cost for curve in own for cost in curve.costs if low <= cost <= high}
            grid = np.array(sorted(costs | {low, high}))
            mean = np.mean([np.interp(grid, curve.costs, curve.values) for curve in own], axis=0)
            axes.plot(grid / 10**scale, mean, color=style.light, linewidth=1.9)
        for curve in own:  # the marks are evaluations; a mean between them was measured nowhere
            axes.plot(
                np.array(curve.costs) / 10**scale, curve.values, color=style.light, linestyle="", marker=style.marker,
                markersize=3.5,
            )  # fmt: skip
    start = study.start_value(measure.column) if len(starts_of(study)) == 1 else math.nan
    if not math.isnan(start):
        axes.axhline(start, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    low, high = budget.common_range(found)
    if low < high:
        axes.axvline(high / 10**scale, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    unit = ", ".join(part for part in (cost.unit, power_of_ten(scale) if scale else "") if part)
    axes.set_xlabel(f"{cost.label} ({unit})" if unit else cost.label)
    axes.set_title(measure.axis_label, loc="left", fontsize=9)
    hold(axes, study.measured(measure))
    hold(axes, cost, "x")


def _scale(highest: float) -> int:
    """The power of a thousand that an axis is written in."""
    return 3 * math.floor(math.log10(highest) / 3) if highest >= 1e4 else 0
