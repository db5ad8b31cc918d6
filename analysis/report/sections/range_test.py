"""Learning-rate range tests: the rates that a rising rate's loss suggests, by named rules, and what they do not say."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis import stats
from analysis.inference.claims import Answer
from analysis.inference.left_out import unfinished
from analysis.report.document import Cell, Figure, Prose, Section, Table
from analysis.report.plots import INK, MUTED, Canvas
from analysis.report.sections.cells import setting
from analysis.study import Study, Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPAN = 0.05
"""The share of the planned steps that the loss is smoothed over, as in the trainer's own ending."""


@dataclass(frozen=True)
class Curve:
    """One run's loss over the rates it met, and the two readings; NaN where there is none."""

    variant: str
    seed: int
    finished: bool
    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    steepest: float
    """The rate at which the smoothed loss falls fastest per power of ten of the rate."""
    lowest: float
    """The rate at which the smoothed loss is lowest."""
    ending: str
    """Why the run ended, as the trainer said."""

    @property
    def tenth(self) -> float:
        """A tenth of the rate of the lowest loss."""
        return self.lowest / 10


def section(study: Study, canvas: Canvas) -> Section | None:
    """The readings and the curves that they were read from; None where the runs are no range tests."""
    if not is_range_test(study):
        return None
    text = (
        "Two readings of each run, by rules of thumb: the rate at which the smoothed loss falls fastest against the "
        "logarithm of the rate, and a tenth of the rate at which it is lowest. Neither is a result about training at "
        "that rate."
    )
    return Section("Rates to begin with", [Prose(text), suggestions(study), figure(study, canvas)])


def is_range_test(study: Study) -> bool:
    """Whether every run is a range test."""
    begun = study.loaded.runs.get("hyperparameters/schedule")
    schedules = [] if begun is None else list(begun.dropna())  # a run that never began has none
    return bool(schedules) and set(schedules) == {"range_test"} and len(study.loaded.metrics) > 0


def read_curves(study: Study) -> list[Curve]:
    """The curves of every run with metrics, in the order of the variants and seeds."""
    found = []
    for row in study.loaded.runs.sort_values("seed", kind="stable").to_dict("records"):
        table = study.loaded.metrics[study.loaded.metrics["run"] == row["run"]].sort_values("step")
        table = table[["learning_rate", "loss"]].dropna(subset=["learning_rate"])
        if len(table) > 2:
            planned = row["hyperparameters/steps"]
            steps = len(table) if planned is None or math.isnan(planned) else int(planned)
            rates, losses = table["learning_rate"].to_numpy(), table["loss"].to_numpy()
            smoothed = stats.smooth(list(losses), SPAN * steps)
            steepest, lowest = read_rates(rates, smoothed, SPAN * steps)
            stopped = row.get("stopped_by")  # NaN where another run has one and this has none
            ending = stopped if isinstance(stopped, str) else "the highest rate was reached"
            finished = row["state"] == "finished"
            found.append(
                Curve(row["variant"], row["seed"], finished, rates, losses, smoothed, steepest, lowest, ending)
            )
    order = [variant.name for variant in study.variants]
    return sorted(found, key=lambda curve: order.index(curve.variant))


def read_rates(rates: np.ndarray, smoothed: np.ndarray, span: float) -> tuple[float, float]:
    """(where the smoothed loss falls fastest on its way to the lowest point, where it is lowest); NaN without a fall.

    The slope at a rate is from `span` steps before it to as many after it, against the logarithm of the rate.
    """
    bottom, reach = int(np.nanargmin(smoothed)), max(1, round(span))
    lowest = float(rates[bottom]) if bottom else math.nan
    middle = np.arange(reach, bottom - reach + 1)
    if not len(middle):
        return math.nan, lowest
    before, after = middle - reach, middle + reach
    slopes = (smoothed[after] - smoothed[before]) / np.log(rates[after] / rates[before])
    steepest = int(np.nanargmin(slopes))
    return (float(rates[middle[steepest]]) if slopes[steepest] < 0 else math.nan), lowest


def pooled(values: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean, least and greatest of the values that are there."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan, math.nan, math.nan
    return math.exp(sum(math.log(value) for value in known) / len(known)), min(known), max(known)


def rate_text(rate: float) -> str:
    """A rate as definitions write it: 2.1e-3."""
    if math.isnan(rate):
        return "none"
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def answer(study: Study) -> Answer:
    """The rates to begin a sweep with; nothing is claimed about which trains best."""
    curves = [curve for curve in read_curves(study) if curve.finished]
    flags = unfinished(study)
    if not curves:
        return Answer("There is no answer yet: no range test has finished.", "Nothing can be claimed.", [], flags)
    parts = []
    for variant in study.variants:
        own = [curve for curve in curves if curve.variant == variant.name]
        if own:
            where = f"at {variant.label}, " if len(study.variants) > 1 else ""
            falling = f"{_pooled_text([c.steepest for c in own])} by the steepest fall of the smoothed loss"
            parts.append(
                f"{where}{falling}, {_pooled_text([c.tenth for c in own])} by a tenth of the rate at its lowest"
            )
    if any(curve.lowest == curve.rates[-1] for curve in curves):
        flags.append("The loss was at its lowest when a run ended: raise learning_rate, so that its rise is seen.")
    certainty = (
        "Both are rules of thumb for where a sweep should begin. Which rate trains best is not measured here, and "
        "nothing is claimed about it."
    )
    return Answer(f"Learning rates to try: {'; '.join(parts)}.", certainty, _grounds(study, curves), flags)


def _pooled_text(values: Sequence[float]) -> str:
    mean, low, high = pooled(values)
    spread = f" ({rate_text(low)} to {rate_text(high)} over {len(values)} seeds)" if len(values) > 1 else ""
    return f"{rate_text(mean)}{spread}"


def _grounds(study: Study, curves: Sequence[Curve]) -> list[str]:
    growth = float(curves[0].rates[1] / curves[0].rates[0])
    grounds = [
        f"A rate is met for one step only, each {growth:.3g} times the last, by weights that smaller rates made: a "
        "rate that lowers the loss here can still diverge over a whole run, and a smaller one can end lower.",
        "The readings hold for this model, batch size, optimiser and data; a warm-up or a decaying schedule moves the "
        "best rate. Try both and a few around them, each at full length and over seeds.",
    ]
    if not any(curve.ending.startswith("range_test") for curve in curves):
        grounds.append("No run was stopped by its loss: the range may end too low to show where training fails.")
    if study.seeds == 1:
        grounds.append("With one seed the spread of these readings is unknown.")
    return grounds


def suggestions(study: Study) -> Table:
    """Every run's readings, and the geometric mean of each setting's."""
    rows, flat = [], []
    curves = read_curves(study)
    for variant in study.variants:
        own = [curve for curve in curves if curve.variant == variant.name]
        finished = [curve for curve in own if curve.finished]
        if len(finished) > 1:
            readings = ([c.steepest for c in finished], [c.tenth for c in finished], [c.lowest for c in finished])
            means = [pooled(values)[0] for values in readings]
            cells = [Cell(rate_text(mean), mean) for mean in means]
            rows.append([setting(variant, ("geometric mean",), "best"), *cells, Cell("–", math.nan), Cell("")])
        for curve in own:
            values = (curve.steepest, curve.tenth, curve.lowest, float(curve.rates[-1]))
            ending = curve.ending if curve.finished else "unfinished"
            cells = [Cell(rate_text(value), value) for value in values]
            rows.append([setting(variant, (f"seed {curve.seed}",)), *cells, Cell(ending.removeprefix("range_test: "))])
            names = ("steepest", "tenth_of_lowest", "lowest", "last_rate")
            flat.append({"variant": curve.variant, "seed": curve.seed, "finished": curve.finished}
                        | dict(zip(names, values, strict=True)) | {"ending": ending})  # fmt: skip
    columns = ["run", "steepest fall", "a tenth of the lowest's", "lowest loss", "last rate", "why it ended"]
    caption = (
        "Readings of finished runs enter the geometric means. A run ends at its highest rate, or before when its "
        "smoothed loss exceeds range_test_stop times its lowest."
    )
    label = "Learning rates read from the range test"
    return Table("range_test", [(name, "") for name in columns], rows, flat, label=label, caption=caption)


def figure(study: Study, canvas: Canvas) -> Figure:
    """The loss against the learning rate: a panel for each setting."""
    curves = read_curves(study)
    panels = []
    for index, variant in enumerate(study.variants):
        own = [curve for curve in curves if curve.variant == variant.name]
        if own:
            name = "range_test" if len(study.variants) == 1 else f"range_test_{index}"
            draw = functools.partial(_draw, canvas=canvas, variant=variant, curves=own)
            panels.append(canvas.panel(name, f"training loss against learning rate, {variant.label}", draw))
    see = (
        "The loss is level while the rate is too small, falls, and rises again where the rate is too large. A dot "
        "marks each seed's steepest fall, a ring a tenth of its lowest's rate, dotted lines their geometric means."
    )
    how = (
        f"Faint: every step's raw loss, on that step's batch before its update. Bold: a line for each seed, an "
        f"exponential moving average over {SPAN * 100:g} % of the planned steps; both rates are read from it, and by "
        "it the run ends (range_test_stop). It lags, so rates are read a little high. The slope is over "
        f"{2 * SPAN * 100:g} % of the steps, against the logarithm of the rate. Raw values beyond the frame are cut."
    )
    return Figure(panels, see, how)


def _draw(axes: Axes, canvas: Canvas, variant: Variant, curves: Sequence[Curve]) -> None:
    style = canvas.styles[variant.name]
    for curve in curves:
        axes.plot(curve.rates, curve.losses, color=style.light, linewidth=0.7, alpha=0.3)
    for curve in curves:
        axes.plot(curve.rates, curve.smoothed, color=style.light, linewidth=1.7)
        for rate, filled in ((curve.steepest, True), (curve.tenth, False)):
            height = float(np.interp(math.log(rate), np.log(curve.rates), curve.smoothed)) if rate > 0 else math.nan
            face = INK if filled else "none"
            axes.plot([rate], [height], "o", color=INK, markerfacecolor=face, markersize=5, zorder=5)
    means = sorted(pooled(values)[0] for values in ([c.steepest for c in curves], [c.tenth for c in curves]))
    for rate, side in zip(means, ("right", "left"), strict=True):
        axes.axvline(rate, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
        if not math.isnan(rate):
            label = f" {rate_text(rate)} "
            axes.text(rate, 0.98, label, transform=axes.get_xaxis_transform(), ha=side, va="top", fontsize=7.5)
    smoothed = np.concatenate([curve.smoothed for curve in curves])
    low, high = float(np.nanmin(smoothed)), float(np.nanmax(smoothed))
    axes.set_ylim(low - 0.15 * (high - low), high + 0.15 * (high - low))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    title = "training loss (nats)" if len(canvas.study.variants) == 1 else f"training loss (nats), {variant.label}"
    axes.set_title(title, loc="left", fontsize=9)
