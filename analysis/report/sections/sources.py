"""Runs that learned from several sources: what was drawn of each, what the budget went to, and what it came to."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from analysis.measures import format_number
from analysis.report.document import Block, Cell, Figure, Prose, Section, Table
from analysis.report.plots import Canvas
from analysis.report.sections.cells import setting
from analysis.study import Study, Variant

ROWS, PASSES, TOKENS, GENERATED = "rows/", "passes/", "tokens/", "generated_tokens/"
SHOWN = ("reward", "rewards/accuracies", "loss")
"""Training measures that are told by source."""
RATES, UNMEASURED, PROMPTS = "pass_rate/", "unmeasured/", "prompts/"
MAX_PANELS = 9


def section(study: Study, canvas: Canvas) -> Section | None:
    """Shows each source of a mix; None where no run had several."""
    names = source_names(study)
    if not names:
        return None
    text = (
        "What was drawn of each source, and what the budget was spent on. A source that was passed through more than "
        "once started over in a new order."
    )
    found = Section("Sources", [Prose(text), table(study, names)])
    columns = [f"{measure}/{name}" for measure in SHOWN for name in names if study.has(f"{measure}/{name}")]
    if columns:
        see = "Whether the sources were learned together, or one at the cost of another."
        how = (
            "Training measures of each source by itself: faint every run, bold the mean over a setting's seeds, "
            "smoothed over a tenth of the steps. Losses are told without the weights of the sources."
        )
        panels = canvas.learning(columns[:MAX_PANELS])
        found.blocks.append(Figure(panels, see, how, len(study.variants) > 1))
    found.blocks += _rates(study, canvas, names)
    return found


def _rates(study: Study, canvas: Canvas, names: list[str]) -> list[Block]:
    """How often prompts passed, where a curriculum drew them by that."""
    columns = [str(c) for c in study.loaded.metrics if str(c).startswith(RATES) and study.has(str(c))]
    shares = [f"{PROMPTS}{name}" for name in names if study.has(f"{PROMPTS}{name}")]
    if not columns + shares:
        return []
    see = "Whether prompts that were too hard or too easy became such as the model sometimes solves."
    how = (
        "pass_rate: the mean rate of a source's prompts that were measured, each when it was last drawn. prompts: the "
        "share of a source's prompts in each band, the easiest first, those that were not measured by the prior. Faint "
        "every run, bold the mean over a setting's seeds, smoothed over a tenth of the steps."
    )
    panels = canvas.learning((columns + shares)[:MAX_PANELS])
    return [_rates_table(study), Figure(panels, see, how, len(study.variants) > 1)]


def _rates_table(study: Study) -> Table:
    """A row for each source of each setting, means over finished runs, over the last tenth of the steps."""
    names = [str(c).removeprefix(UNMEASURED) for c in study.loaded.metrics if str(c).startswith(UNMEASURED)]
    rows, flat = [], []
    for variant in study.variants:
        for name in names:
            bands = [c for c in map(str, study.loaded.metrics) if re.fullmatch(rf"{PROMPTS}{re.escape(name)}-\d+", c)]
            columns = [f"{RATES}{name}", f"{UNMEASURED}{name}", *bands]
            values = {column: study.values(variant, column) for column in columns}
            means = {column: float(np.mean(own)) for column, own in values.items() if own}
            if not means:
                continue
            shares = " / ".join(f"{means[band]:.0%}" for band in bands if band in means)
            rate, unmeasured = (means.get(column, math.nan) for column in columns[:2])
            cells = [Cell(format_number(rate), rate), Cell(f"{unmeasured:.0%}", unmeasured), Cell(shares)]
            rows.append([setting(variant), Cell(name), *cells])
            flat.append({"variant": variant.name, "source": name, **means})
    heads = [("setting", ""), ("source", ""), ("pass rate", "mean"), ("not measured", ""), ("prompts by band", "")]
    caption = (
        "Prompts that were drawn by their pass rates, over the last tenth of the steps: the mean rate of those "
        "measured, the share of those that were not, and the shares in each band, the easiest first."
    )
    return Table("pass_rates", heads, rows, flat, label="Pass rates", caption=caption)


def source_names(study: Study) -> list[str]:
    """The names of all sources of these runs, in their order."""
    return [c.removeprefix(ROWS) for c in map(str, study.loaded.metrics) if c.startswith(ROWS) and study.has(c)]


def table(study: Study, names: list[str]) -> Table:
    """A row for each source of each setting, means over finished runs."""
    rows, flat = [], []
    for variant in study.variants:
        found = [(name, _numbers(study, variant, name)) for name in names]
        found = [(name, numbers) for name, numbers in found if not math.isnan(numbers["rows"])]
        drawn = sum(numbers["rows"] for _, numbers in found)
        tokens = [numbers["trained_tokens"] for _, numbers in found]
        trained = sum(number for number in tokens if not math.isnan(number))
        for name, numbers in found:
            learned = numbers["trained_tokens"] / max(trained, 1.0)
            shares = (f"{numbers['rows'] / drawn:.0%}",), () if math.isnan(learned) else (f"{learned:.0%}",)
            cells = [
                Cell(format_number(numbers["rows"], "count"), numbers["rows"], shares[0]),
                Cell(f"{numbers['passes']:.2f}", numbers["passes"]),
                Cell(format_number(numbers["trained_tokens"], "count"), numbers["trained_tokens"], shares[1]),
                Cell(format_number(numbers["generated_tokens"], "count"), numbers["generated_tokens"]),
                *(Cell(format_number(numbers[measure]), numbers[measure]) for measure in SHOWN),
            ]
            rows.append([setting(variant), Cell(name), *cells])
            flat.append({"variant": variant.name, "source": name, **numbers})
    heads = [
        *(("setting", ""), ("source", ""), ("rows drawn", "share"), ("passes", ""), ("trained tokens", "share")),
        *(("generated tokens", ""), ("reward", "at the end"), ("accuracy", "at the end"), ("loss", "at the end")),
    ]
    caption = (
        "Means over finished runs. Rows are those drawn from the training data, of prompts each once whatever was "
        "sampled of it; trained tokens are those that steps learned from. At the end: over the last tenth of the steps."
    )
    return Table("sources", heads, rows, flat, label="Sources", caption=caption)


def _numbers(study: Study, variant: Variant, name: str) -> dict[str, Any]:
    """What the finished runs of a setting say of a source: totals, and measures at their end."""
    finished = study.finals.loc[(study.finals["variant"] == variant.name) & study.finals["finished"], "run"]
    metrics = study.loaded.metrics
    runs = metrics[metrics["run"].isin(set(finished))].groupby("run", sort=False)

    def over_runs(column: str, *, summed: bool) -> float:
        if column not in metrics:
            return math.nan
        each = runs[column].sum(min_count=1) if summed else runs[column].max()
        return float(each.mean())

    totals = {
        "rows": over_runs(f"{ROWS}{name}", summed=False),
        "passes": over_runs(f"{PASSES}{name}", summed=False),
        "trained_tokens": over_runs(f"{TOKENS}{name}", summed=True),
        "generated_tokens": over_runs(f"{GENERATED}{name}", summed=True),
    }
    ends = {measure: study.values(variant, f"{measure}/{name}") for measure in SHOWN}
    return totals | {measure: float(np.mean(values)) if values else math.nan for measure, values in ends.items()}
