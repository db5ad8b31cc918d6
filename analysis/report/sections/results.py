"""What every setting reached: the held-out measures drawn and in numbers."""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING

import numpy as np

from analysis.inference import checkpoints
from analysis.inference.checkpoints import interval_of
from analysis.inference.claims import checked_by_number, leaders
from analysis.inference.comparability import group_names, groups, restrict, start_value
from analysis.inference.over_optimisation import by_pairs
from analysis.measures import BY_COLUMN, OUTCOMES, ROLLOUTS, TRAINING, Measure, capital, join, plain
from analysis.report.document import Cell, Figure, Panel, Prose, Section, Table
from analysis.report.plots import FIRST, MARKERS, MUTED, SECOND, Canvas, hold, slug
from analysis.report.sections.cells import limits_text, setting
from analysis.searched import num_tried
from analysis.study import Study, Variant, begun_from, short
from workbench.tracking.names import EXACT_MATCH_GREEDY, EXACT_MATCH_SAMPLED, HELD_OUT_LOSS, PAIR_ACCURACY, PAIR_MARGIN
from workbench.tracking.words import plural

MAX_LINE = 24
"""Characters of a label that stand on one line of a drawing."""

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def section(study: Study, canvas: Canvas) -> Section | None:
    """The outcome by setting as a figure, then every value with its interval and its seeds."""
    shown = table(study)
    if canvas.single_seed:
        text = (
            "The table gives the value of each checkpoint; under a held-out value stands its 95 % interval over its "
            "prompts or pairs (Wilson for a rate of one outcome each, t for a mean)."
        )
    else:
        text = (
            "The table gives the mean over finished seeds; below it the 95 % t interval (n − 1 degrees of freedom; "
            "rates cut at 0 and 1) and, for the deciding measure, every seed."
        )
    text += " Held-out values are those of the model that each run left."
    found = Section("Results", [])
    if len(study.variants) > 1 and not study.finals.empty and (drawn := figure(study, canvas)).panels:
        found.blocks.append(drawn)
    found.blocks += [Prose(text), shown]
    if checked_by_number(study):
        found.blocks.append(
            Prose(
                "Exact match counts a completion as right when the number that it gives as its answer equals the "
                "reference's (verifier: number).",
                "note",
            )
        )
    return found


def _best(study: Study) -> list[str]:
    """The variants to mark where a ranking may be spoken of: of each group of several the best, and all that cannot be
    told from it."""
    measure = study.deciding
    if measure is None or checkpoints.one_seed(study):
        return []
    several = [group.study for group in groups(study) if len(group.study.variants) > 1]
    return [variant.name for own in several for variant in leaders(own, measure)]


def table(study: Study) -> Table:
    """Every variant by every measure: mean, interval, each seed; led by the start."""
    measures = [m for m in OUTCOMES if study.has(m.column)]
    if study.deciding is not None and study.deciding not in measures:  # as a caller of compare may choose
        measures.insert(0, study.deciding)
    # What training says of itself ranks nothing: it stands here only where nothing was held out.
    measures = measures or [m for m in (TRAINING[2], ROLLOUTS[0]) if study.has(m.column)]
    rows, flat, best = [], [], _best(study)
    named = {m.column: group_names(study, m.column) for m in measures}
    names = named.get(study.deciding.column, {}) if study.deciding else {}
    rows += _start_rows(study, measures)
    for variant in study.variants:
        planned = study.loaded.runs[study.loaded.runs["variant"] == variant.name]
        finished = int((planned["state"] == "finished").sum())
        seeds = f"{finished} of {len(planned)} seed{'s' if len(planned) > 1 else ''}"
        group = names.get(variant.name, "")
        tried = num_tried(study.plans, variant.name)
        lines = (seeds, *([f"group {group}"] if group else []), *([f"of {tried} settings tried"] if tried else []))
        row = [setting(variant, lines, "best" if variant.name in best else "")]
        for measure in measures:
            own = named[measure.column].get(variant.name, "")
            row.append(_mean_cell(study, variant, measure, own if measure is not study.deciding else ""))
            interval = interval_of(study, variant, measure)
            values = study.values(variant, measure.column)
            flat.append(
                {
                    "variant": variant.name,
                    "group": own,
                    "position": variant.position,
                    "measure": measure.column,
                    "unit": measure.unit,
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "finished_seeds": len(values),
                    "values": " ".join(f"{value:.10g}" for value in values),
                    "start": start_value(study, measure.column),
                }
            )
        rows.append(row)
    head = study.axis or ("setting" if len(study.variants) > 1 else "run")
    caption = "Muted: the start before any step." if rows and rows[0][0].tone == "muted" else ""
    if best:
        caption += (
            f" Marked: the best of {'each group' if any(names.values()) else 'them'} and what cannot be told from it."
        )
    if any(name for m in measures if m is not study.deciding for name in named[m.column].values()):
        caption += " A group beside a value is its measure's own: between two of them that measure is not compared."
    caption = caption.strip()
    heads = [(head, ""), *((m.label, m.unit) for m in measures)]
    return Table("results", heads, rows, flat, label="Results", caption=caption, broad=True)


def _start_rows(study: Study, measures: list[Measure]) -> list[list[Cell]]:
    """A row for every start of the settings: what was measured before training, of those that began from it."""
    begun = begun_from(study)
    named = len(begun) > 1 or (begun and len(study.plans) > 1) or study.loaded.runs["experiment"].nunique() > 1
    parts = [(short(name), f"start of {_named_or_counted(own)}", own) for name, own in begun.items()]
    if not named or not begun:
        parts = [("start", "before training", study.variants)]
    found = []
    for label, line, variants in parts:
        part = restrict(study, variants)
        start = [start_value(part, m.column) for m in measures]
        if any(not math.isnan(value) for value in start):
            cells = [Cell(m.text(v), v, tone="muted") for m, v in zip(measures, start, strict=True)]
            found.append([Cell(label, -math.inf if study.axis else "", (line,), "muted"), *cells])
    return found


def _named_or_counted(variants: list[Variant]) -> str:
    """Names up to two settings by their labels, and says how many there are where there are more."""
    return join([v.label for v in variants]) if len(variants) <= 2 else plural(len(variants), "setting")


def _mean_cell(study: Study, variant: Variant, measure: Measure, group: str = "") -> Cell:
    values = study.values(variant, measure.column)
    if not values:
        unfinished = study.values(variant, measure.column, finished=False)
        seen = "unfinished: " + " · ".join(measure.text(v) for v in unfinished)
        return Cell("–", math.nan, (seen,) if unfinished else (), "muted")
    interval = interval_of(study, variant, measure)
    limits = limits_text(interval, measure)
    lines: tuple[str, ...] = (limits,) if limits else ()
    # Every seed of what decides; of the rest the figures and the CSV file show them.
    if len(values) > 1 and measure is study.deciding:
        lines += (" · ".join(measure.text(value) for value in values),)
    lines += (f"group {group}",) if group else ()
    return Cell(measure.text(interval.mean), interval.mean, lines)


def figure(study: Study, canvas: Canvas) -> Figure:
    panels = panels_by_setting(study, canvas)
    along = study.axis or "setting"
    exact = study.has(EXACT_MATCH_SAMPLED) or study.has(EXACT_MATCH_GREEDY)
    pairs = study.has(PAIR_ACCURACY)
    remarks = by_pairs(study)
    if remarks:
        see = (
            "The pair measures and the task disagree: the settings named below have a wider margin or a higher pair "
            "accuracy than the best one and do the task worse (over-optimisation)."
        )
    elif exact and pairs:
        see = (
            "If pair accuracy or margin rose where exact match fell, the preferences would be over-optimised; no "
            "setting with a margin above the best one's is separated from it in exact match."
        )
    else:
        see = f"{capital(join([panel.alt for panel in panels]))}." if panels else ""
    how = (
        "Large marks: mean over finished seeds of the model each run left; bars: 95 % t interval; small dots: every "
        "seed; dashed: the start. Margin is the mean over held-out pairs of h, the policy-minus-reference difference "
        "of summed log-probs between chosen and rejected; accuracy is the share with h > 0, ties one half."
    )
    if canvas.single_seed:
        see = f"One checkpoint for each {along}: marks are not joined, for one seed shows no trend."
        over = (
            "Marks: the model each run left; bars: 95 % interval over its held-out items (Wilson for a rate, t for a "
        )
        how = over + "margin); dashed: the start. " + how.split("the start. ")[1]
    if not pairs:
        how = how.split(" Margin is")[0]
    return Figure(panels, see, how, remarks=remarks)


def panels_by_setting(study: Study, canvas: Canvas) -> list[Panel]:
    """Outcome measures against the numeric axis, or by variant where there is none."""
    exact = [BY_COLUMN[c] for c in (EXACT_MATCH_SAMPLED, EXACT_MATCH_GREEDY) if study.has(c)]
    together = len({v.group for v in study.variants}) == 1 and study.axis is not None and len(exact) == 2
    lists = [exact] if together else [[measure] for measure in exact]
    lists += [[BY_COLUMN[c]] for c in (PAIR_ACCURACY, PAIR_MARGIN) if study.has(c)]
    if not exact and study.has(HELD_OUT_LOSS):
        lists.append([BY_COLUMN[HELD_OUT_LOSS]])
    panels = []
    for measures in lists:
        label = "exact match" if len(measures) == 2 else measures[0].label
        along = study.axis or "setting"
        name = f"{slug(label)}_by_{slug(along)}"
        lines = max(_in_lines(v.label).count("\n") for v in study.variants) + 1
        height = 2.9 if study.axis else max(2.9, 0.9 + (0.14 + 0.18 * lines) * len(study.variants))
        draw = functools.partial(_draw, study=study, canvas=canvas, measures=measures)
        panels.append(canvas.panel(name, f"{label} by {along}", draw, (3.7, height)))
    return panels


def _draw(axes: Axes, study: Study, canvas: Canvas, measures: list[Measure]) -> None:
    for index, measure in enumerate(measures):
        colour = (FIRST, SECOND)[index]
        start = start_value(study, measure.column)
        horizontal = study.axis is not None
        if not math.isnan(start):
            line = axes.axhline if horizontal else axes.axvline
            line(start, color=colour if len(measures) > 1 else MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        if not horizontal:
            _by_variant(axes, canvas, measure)
            continue
        several = len({v.group for v in study.variants}) > 1
        for group, line_variants in study.groups():
            shown = [v for v in line_variants if study.values(v, measure.column) and v.position is not None]
            if shown:
                style = canvas.styles[shown[0].name]
                _line(axes, canvas, measure, shown, style.light if several else colour, index, group)
    hold(axes, study.measured(measures[0]), "x" if study.axis is None else "y")
    labels = [m.label.split()[0] for m in measures]
    if study.axis is not None:
        axes.set_xlabel(study.axis)
        _axis_ticks(axes, study)
    if len(measures) > 1:
        axes.set_title("exact match (share)", loc="left", fontsize=9)
        axes.legend(axes.containers[: len(labels)], labels, frameon=False, fontsize=8, loc="best", handlelength=1.6)
    else:
        axes.set_title(measures[0].axis_label, loc="left", fontsize=9)
        if study.axis is not None and len({v.group for v in study.variants}) > 1:
            axes.legend(frameon=False, fontsize=8, loc="best", handlelength=1.6)


def _line(
    axes: Axes, canvas: Canvas, measure: Measure, variants: list[Variant], colour: str, index: int, group: str
) -> None:
    """Means joined by a line (not with one seed: no trend), intervals as bars, every seed as a small dot."""
    x = [float(v.position or 0.0) for v in variants]
    intervals = [interval_of(canvas.study, v, measure) for v in variants]
    mean = [interval.mean for interval in intervals]
    spread = [[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]]
    axes.errorbar(
        x, mean, yerr=np.nan_to_num(np.array(spread)), color=colour, marker=MARKERS[index], markersize=5,
        linewidth=0 if canvas.single_seed else 1.8, elinewidth=1.2, capsize=2.5, label=group,
    )  # fmt: skip
    for position, variant in zip(x, variants, strict=True):
        seeds = canvas.study.values(variant, measure.column)
        axes.plot([position] * len(seeds), seeds, ".", color=colour, markersize=4.5, alpha=0.55, zorder=3)


def _by_variant(axes: Axes, canvas: Canvas, measure: Measure) -> None:
    study = canvas.study
    shown = [v for v in study.variants if study.values(v, measure.column, finished=False)]
    for row, variant in enumerate(shown):
        style = canvas.styles[variant.name]
        seeds = study.values(variant, measure.column)
        interval = interval_of(study, variant, measure)
        if seeds:
            bar = np.nan_to_num(np.array([[interval.mean - interval.low], [interval.high - interval.mean]]))
            axes.errorbar(
                [interval.mean], [row], xerr=bar, color=style.light, marker=style.marker, markersize=6, capsize=2.5
            )
            axes.plot(seeds, [row] * len(seeds), ".", color=style.light, markersize=5, alpha=0.55)
    labels = [_in_lines(v.label) for v in shown]
    longest = max((len(line) for label in labels for line in label.split("\n")), default=0)
    axes.set_yticks(range(len(shown)), labels, fontsize=7.5)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    left = min(0.5, 0.06 + 0.0165 * longest)
    box = axes.get_position()
    axes.set_position((left, box.y0, 0.97 - left, box.height))


def _in_lines(label: str) -> str:
    """A label cut between its settings, so that no line takes more than about half of a drawing."""
    lines = [""]
    for part in re.split(r"(?<=[:,]) ", label):
        joined = f"{lines[-1]} {part}".strip()
        if lines[-1] and len(joined) > MAX_LINE:
            lines.append(part)
        else:
            lines[-1] = joined
    return "\n".join(line if len(line) <= MAX_LINE + 8 else f"{line[: MAX_LINE + 7]}…" for line in lines)


def _axis_ticks(axes: Axes, study: Study) -> None:
    """The tried values as ticks; logarithmic where they span a factor of eight and are positive."""
    positions = sorted({v.position for v in study.variants if v.position is not None})
    if positions[0] > 0 and positions[-1] / positions[0] >= 8:
        axes.set_xscale("log")
    shown = positions if len(positions) <= 8 else positions[:: math.ceil(len(positions) / 8)]
    axes.set_xticks(shown, [plain(position) for position in shown])
    axes.set_xticks([], minor=True)
