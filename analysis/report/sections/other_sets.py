"""The held-out sets beside the one that decides: every setting's value before and after, and settings compared."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from analysis.inference import comparability, other_sets
from analysis.inference.claims import Comparison
from analysis.measures import Measure, format_p
from analysis.report.document import Block, Cell, Prose, Section, Table
from analysis.report.plots import Canvas
from analysis.report.sections.cells import setting, signed, with_interval
from analysis.study import Study
from workbench.tracking.names import seconds_of_set


def section(study: Study, canvas: Canvas) -> Section | None:
    """Shows the other sets; None where one set alone was measured."""
    found = other_sets.results(study)
    if not found:
        return None
    decides = f"The set {study.deciding_set} decides" if study.deciding_set else "One set decides"
    text = (
        f"{decides}; these stand beside it, and none of them changes the answer. A change is from the start; Holm "
        "adjusts over all of these sets and settings."
    )
    blocks: list[Block] = [Prose(text), _table(study, found)]
    blocks += [Prose(f"On the set {name}: {text}", "note") for name, text in _refusals(study)]
    compared = other_sets.comparisons(study)
    return Section("Other held-out sets", [*blocks, _compared(compared)] if compared else blocks)


def _refusals(study: Study) -> list[tuple[str, str]]:
    told = set(comparability.refusals(study))
    views = ((name, study.on_set(name)) for name in study.other_sets)
    return [(name, text) for name, view in views for text in comparability.refusals(view) if text not in told]


def _table(study: Study, found: list[other_sets.SetResult]) -> Table:
    rows, flat = [], []
    for own in found:
        measure, mean = own.measure, float(np.mean(own.values))
        limits = "" if math.isnan(own.change.low) else (
            f"{signed(own.change.low, measure)} to {signed(own.change.high, measure)}"
        )  # fmt: skip
        change = Cell("–") if math.isnan(own.change.mean) else (
            Cell(signed(own.change.mean, measure), own.change.mean, (limits,) if limits else ())
        )  # fmt: skip
        seconds = study.values(own.variant, seconds_of_set(own.name))
        taken = float(np.mean(seconds)) if seconds else math.nan
        rows.append(
            [
                Cell(own.name),
                setting(own.variant, ("forgotten",) if own.forgotten else (), "bad" if own.forgotten else ""),
                Cell(measure.axis_label),
                Cell(measure.text(own.before), own.before),
                with_interval(replace(own.after, mean=mean), measure),
                change,
                Cell(format_p(own.adjusted), own.adjusted),
                Cell(own.how or "–", lines=(f"adjusted {format_p(own.paired)}",) if own.paired == own.paired else ()),
                Cell("–" if math.isnan(taken) else f"{taken:.1f}", taken),
            ]
        )
        flat.append(
            {"set": own.name, "variant": own.variant.name, "measure": measure.column, "start": own.before}
            | {"mean": mean, "mean_low": own.after.low, "mean_high": own.after.high}
            | {"change": own.change.mean, "low": own.change.low, "high": own.change.high}
            | {"seeds": len(own.values), "p_holm": own.adjusted, "p_paired_holm": own.paired}
            | {"forgotten": own.forgotten, "seconds": taken}
        )
    names = [
        "set",
        "setting",
        "measure",
        "start",
        "after",
        "change",
        "over seeds, Holm",
        "over prompts, one checkpoint",
    ]
    heads = [*((name, "") for name in names), ("measuring", "s a run")]
    caption = (
        "After: mean over finished seeds with its 95 % t interval; of one seed, the interval over its prompts, pairs "
        "or rows. Change: with its 95 % t interval, and a one-sample t test over seeds. Over prompts: exact McNemar of "
        "the lowest seed's checkpoint against its start, or of rows the paired change: of these weights alone. "
        "Forgotten: worse than the start by either, at 0.05 after Holm."
    )
    return Table("other_sets", heads, rows, flat, label="Other held-out sets", caption=caption, broad=True)


def _compared(found: list[tuple[str, Measure, Comparison]]) -> Table:
    rows, flat = [], []
    for name, measure, each in found:
        test = each.test
        cells = [Cell(signed(test.difference, measure), test.difference), Cell(format_p(test.p), test.p)]
        adjusted = Cell(format_p(each.adjusted), each.adjusted, tone="best" if each.separated else "")
        rows.append([Cell(name), Cell(measure.label), setting(each.first), setting(each.second), *cells, adjusted])
        flat.append(
            {"set": name, "measure": measure.column, "first": each.first.name, "second": each.second.name}
            | {"difference": test.difference, "low": test.low, "high": test.high}
            | {"p_welch": test.p, "p_holm": each.adjusted}
        )
    names = ["set", "measure", "first", "second", "difference", "Welch", f"Holm over sets, m = {len(rows)}"]
    label = "Settings against one another on the other sets"
    heads = [(name, "") for name in names]
    return Table(
        "other_sets_compared", heads, rows, flat, label=label, broad=True, folded=label if len(rows) > 12 else ""
    )
