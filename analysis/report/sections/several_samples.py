"""pass@k and majority@k of every setting: curves over k, values with both intervals, and every contrast."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from analysis import stats
from analysis.inference import several_samples
from analysis.inference.claims import LEVEL
from analysis.inference.comparability import start_value
from analysis.inference.several_samples import Contrast
from analysis.measures import Measure, format_p
from analysis.report.document import Block, Cell, Figure, Panel, Prose, Section, Table
from analysis.report.plots import MUTED, Canvas, hold
from analysis.report.sections.cells import limits_text, setting, signed
from analysis.study import Study, Variant
from workbench.tracking.names import of_samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def section(study: Study, canvas: Canvas) -> Section | None:
    """Shows what several samples a prompt come to; None where none was asked for, or no run has finished."""
    if not any(study.compared(measure.column) for measure in study.of_samples):
        return None
    about = (
        "pass@k is the chance that one of k samples at least is right; majority@k, that the most frequent answer of k "
        "samples is. They stand beside the measure that decides, and none of them changes the answer."
    )
    blocks: list[Block] = [Prose(about)]
    panels = _panels(study, canvas)
    if panels:
        blocks.append(_figure(panels, len(study.variants) > 1))
    blocks.append(_values(study))
    found = several_samples.contrasts(study)
    return Section("Several samples a prompt", [*blocks, _contrasts(found)] if found else blocks)


def _panels(study: Study, canvas: Canvas) -> list[Panel]:
    """A curve over k for each kind that has two values of k or more."""
    panels = []
    for kind in ("pass", "majority"):
        measures = [m for m in study.of_samples if _kind_and_k(m)[0] == kind and study.compared(m.column)]
        if len(measures) > 1:
            draw = functools.partial(_draw, study=study, canvas=canvas, measures=measures, kind=kind)
            panels.append(canvas.panel(f"{kind}_at_k", f"{kind}@k over k", draw))
    return panels


def _figure(panels: list[Panel], legend: bool) -> Figure:
    see = (
        "Where a curve lies above the start's at k = 1 and meets it at the largest k, training made answers that the "
        "start could already give more likely, and added none."
    )
    how = (
        "Large marks: mean over finished seeds of the model that each run left; small dots: every seed; bars: 95 % t "
        "interval over seeds, or over prompts where there is one seed; dashed: the start. The axis of k is logarithmic."
    )
    return Figure(panels, see, how, legend)


def _draw(axes: Axes, study: Study, canvas: Canvas, measures: list[Measure], kind: str) -> None:
    ks = [_kind_and_k(measure)[1] for measure in measures]
    start = [start_value(study, measure.column) for measure in measures]
    if not all(map(math.isnan, start)):
        axes.plot(ks, start, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    for variant in study.variants:
        style = canvas.styles[variant.name]
        intervals = [_over_seeds(study, measure, variant) for measure in measures]
        if study.values(variant, measures[0].column):
            bars = np.array([[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]])
            axes.errorbar(
                ks, [i.mean for i in intervals], yerr=np.nan_to_num(bars), color=style.light, marker=style.marker,
                markersize=4.5, linewidth=1.6, elinewidth=1.1, capsize=2.5,
            )  # fmt: skip
            for k, measure in zip(ks, measures, strict=True):
                seeds = study.values(variant, measure.column)
                axes.plot([k] * len(seeds), seeds, ".", color=style.light, markersize=4.5, alpha=0.55)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("k, samples a prompt")
    axes.set_title(f"{kind}@k (share)", loc="left", fontsize=9)
    hold(axes, measures[0])


def _over_seeds(study: Study, measure: Measure, variant: Variant) -> stats.Interval:
    values = study.values(variant, measure.column)
    if len(values) > 1:
        return measure.within(stats.t_interval(values))
    return several_samples.over_prompts(study, measure, variant)


def _kind_and_k(measure: Measure) -> tuple[str, int]:
    found = of_samples(measure.column)
    assert found is not None, "only measures of several samples come here"
    return found


def _values(study: Study) -> Table:
    rows, flat = [], []
    start = [start_value(study, measure.column) for measure in study.of_samples]
    if not all(map(math.isnan, start)):
        cells = [Cell(m.text(x), x, tone="muted") for m, x in zip(study.of_samples, start, strict=True)]
        rows.append([Cell("start", "", ("before training",), "muted"), *cells])
    for variant in study.variants:
        row = [setting(variant)]
        for measure in study.of_samples:
            values = study.values(variant, measure.column)
            if not values:
                row.append(Cell("–", math.nan, tone="muted"))
                continue
            seeds, prompts = stats.t_interval(values), several_samples.over_prompts(study, measure, variant)
            limits = {"seeds": limits_text(seeds, measure), "prompts": limits_text(prompts, measure)}
            lines = tuple(f"{over}: {text}" for over, text in limits.items() if text)
            row.append(Cell(measure.text(seeds.mean), seeds.mean, lines))
            flat.append(
                {"variant": variant.name, "measure": measure.column, "mean": seeds.mean, "seeds": len(values)}
                | {"low_seeds": seeds.low, "high_seeds": seeds.high, "prompts": prompts.n, "checkpoint": prompts.mean}
                | {"low_prompts": prompts.low, "high_prompts": prompts.high}
                | {"start": start_value(study, measure.column)}
            )
        rows.append(row)
    caption = (
        "Mean over finished seeds. Below it two 95 % t intervals: over seeds, and over the prompts of the lowest "
        "seed's checkpoint alone. pass@k is unbiased for any number of samples (Chen 2021); majority@k is the mean "
        "over blocks of k samples, answers that tie counting their shares, as the verifier reads answers."
    )
    heads = [("setting", ""), *((measure.label, measure.unit) for measure in study.of_samples)]
    return Table("several_samples", heads, rows, flat, label="pass@k and majority@k", caption=caption, broad=True)


def _contrasts(found: list[Contrast]) -> Table:
    rows, flat = [], []
    for each in found:
        rows.append(
            [
                Cell(each.measure.label),
                setting(each.first),
                Cell("start") if each.second is None else setting(each.second),
                *_difference(each.over_seeds, each.p_seeds, each.holm_seeds, each.measure),
                *_difference(each.over_prompts, each.p_prompts, each.holm_prompts, each.measure),
            ]
        )
        flat.append(
            {"measure": each.measure.column, "first": each.first.name}
            | {"second": "start" if each.second is None else each.second.name}
            | {"difference_seeds": each.over_seeds.mean, "low_seeds": each.over_seeds.low}
            | {"high_seeds": each.over_seeds.high, "p_seeds": each.p_seeds, "p_holm_seeds": each.holm_seeds}
            | {"difference_prompts": each.over_prompts.mean, "low_prompts": each.over_prompts.low}
            | {"high_prompts": each.over_prompts.high, "p_prompts": each.p_prompts, "p_holm_prompts": each.holm_prompts}
        )
    adjusted = f"Holm, m = {len(found)}"
    heads = [("measure", ""), ("first", ""), ("less", ""), ("over seeds", "share"), (adjusted, "seeds")]
    heads += [("over prompts", "share"), (adjusted, "prompts")]
    caption = (
        "Over seeds: a one-sample t test of the change from the start, Welch's test of two settings; it alone speaks "
        "of methods. Over prompts: the paired differences of the lowest seeds' checkpoints on the same prompts, by "
        "Student's t; it speaks of these weights alone."
    )
    label = "Several samples: against the start and against one another"
    folded = label if len(rows) > 12 else ""
    return Table("several_samples_compared", heads, rows, flat, label=label, caption=caption, broad=True, folded=folded)


def _difference(interval: stats.Interval, p: float, adjusted: float, measure: Measure) -> list[Cell]:
    """A difference with its limits, and its p before and after adjustment."""
    if math.isnan(interval.mean):
        return [Cell("–", math.nan, tone="muted"), Cell("–", math.nan, tone="muted")]
    limits = "" if math.isnan(interval.low) else f"{signed(interval.low, measure)} to {signed(interval.high, measure)}"
    tone = "best" if adjusted < LEVEL else ""
    return [
        Cell(signed(interval.mean, measure), interval.mean, (limits,) if limits else ()),
        Cell(format_p(adjusted), adjusted, () if math.isnan(p) else (f"alone {format_p(p)}",), tone),
    ]
