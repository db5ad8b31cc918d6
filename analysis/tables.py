"""The report's tables, as cells that the page, the Markdown and the CSV files all read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.before_after import Change
from analysis.checkpoints import PairedTest, PairScore, interval_of
from analysis.claims import Comparison
from analysis.measures import COSTS, OUTCOMES, ROLLOUTS, TRAINING, Measure, format_number, format_p
from analysis.study import Study, Variant


@dataclass(frozen=True)
class Cell:
    """What is written, the value it sorts by, and smaller lines below it."""

    text: str
    sort: float | str | None = None
    lines: tuple[str, ...] = ()
    tone: str = ""
    """"": plain; "muted"; "best"; "bad"."""

    @property
    def key(self) -> str:
        """The value to sort by, as text."""
        value = self.text if self.sort is None else self.sort
        return (
            ""
            if isinstance(value, float) and math.isnan(value)
            else f"{value:.12g}"
            if isinstance(value, float)
            else value
        )


@dataclass(frozen=True)
class Table:
    """Columns are (name, unit); numeric tells which of them align right."""

    name: str
    columns: list[tuple[str, str]]
    rows: list[list[Cell]]
    numeric: bool = True
    note: str = ""
    plain: list[dict[str, Any]] = field(default_factory=list)
    """The same content as flat rows, for CSV."""


def results(study: Study, best: Variant | None) -> Table:
    """Every variant by every measure: mean, interval, each seed; led by the start."""
    measures = [m for m in OUTCOMES if study.has(m.column)]
    measures += [m for m in (TRAINING[0], ROLLOUTS[0]) if study.has(m.column)]
    costs = [m for m in COSTS if study.has(m.column) and study.finals[m.column].abs().sum() > 0]
    measures += [m for m in costs if m.column != "cost/scored_tokens"]
    rows, flat = [], []
    start = [study.start_value(m.column) for m in measures]
    if any(not math.isnan(value) for value in start):
        cells = [Cell(m.text(v), v, tone="muted") for m, v in zip(measures, start, strict=True)]
        rows.append([Cell("start", -math.inf if study.axis else "", ("before training",), "muted"), *cells])
    for variant in study.variants:
        planned = study.loaded.runs[study.loaded.runs["variant"] == variant.name]
        finished = int((planned["state"] == "finished").sum())
        seeds = f"{finished} of {len(planned)} seed{'s' if len(planned) > 1 else ''}"
        tone = "best" if best is not None and variant.name == best.name else ""
        row = [setting(variant, (seeds,), tone)]
        for measure in measures:
            row.append(_mean_cell(study, variant, measure))
            interval = interval_of(study, variant, measure)
            values = study.values(variant, measure.column)
            flat.append(
                {
                    "variant": variant.name,
                    "position": variant.position,
                    "measure": measure.column,
                    "unit": measure.unit,
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "finished_seeds": len(values),
                    "values": " ".join(f"{value:.10g}" for value in values),
                    "start": study.start_value(measure.column),
                }
            )
        rows.append(row)
    head = study.axis or ("setting" if len(study.variants) > 1 else "run")
    return Table("results", [(head, ""), *((m.label, m.unit) for m in measures)], rows, plain=flat)


def setting(variant: Variant, lines: tuple[str, ...] = (), tone: str = "") -> Cell:
    """A variant's name, sorted by its value on the axis where that is all that tells variants apart."""
    return Cell(
        variant.label, variant.label if variant.group or variant.position is None else variant.position, lines, tone
    )


def _mean_cell(study: Study, variant: Variant, measure: Measure) -> Cell:
    values = study.values(variant, measure.column)
    if not values:
        unfinished = study.values(variant, measure.column, finished=False)
        seen = "unfinished: " + " · ".join(measure.text(v) for v in unfinished)
        return Cell("–", math.nan, (seen,) if unfinished else (), "muted")
    interval = interval_of(study, variant, measure)
    lines: tuple[str, ...] = ()
    spread = not math.isnan(interval.low) and interval.high - interval.low > 1e-12 * abs(interval.mean)
    if spread:
        low, high = interval.low, interval.high
        if measure.kind == "rate":
            low, high = max(0.0, low), min(1.0, high)
        lines = (f"{measure.text(low)} to {measure.text(high)}",)
    if len(values) > 1 and (spread or measure.kind == "rate"):
        lines += (" · ".join(measure.text(value) for value in values),)
    return Cell(measure.text(interval.mean), interval.mean, lines)


def comparisons(found: Sequence[Comparison], measure: Measure) -> Table:
    """Every pair of settings by Welch's test."""
    rows, flat = [], []
    for c in found:
        t = c.test
        difference = measure.text(abs(t.difference))
        sign = "+" if t.difference >= 0 else "−"
        interval = "–" if math.isnan(t.low) else f"{_signed(t.low, measure)} to {_signed(t.high, measure)}"
        rows.append(
            [
                setting(c.first),
                setting(c.second),
                Cell(f"{sign}{difference}", t.difference),
                Cell(interval, t.low),
                Cell("–" if math.isnan(t.t) else f"{t.t:.2f} ({t.df:.1f})".replace("-", "−"), t.t),
                Cell(format_p(t.p), t.p),
                Cell(format_p(c.adjusted), c.adjusted, tone="best" if c.separated else ""),
                Cell(f"p = {c.exact.p:.3g} (≥ {c.exact.floor:.2g})", c.exact.p),
            ]
        )
        flat.append(
            {
                "first": c.first.name,
                "second": c.second.name,
                "measure": measure.column,
                "difference": t.difference,
                "low": t.low,
                "high": t.high,
                "t": t.t,
                "df": t.df,
                "p_welch": t.p,
                "p_holm": c.adjusted,
                "p_permutation": c.exact.p,
                "p_permutation_floor": c.exact.floor,
            }
        )
    names = [
        "first",
        "second",
        "difference",
        "95 % interval",
        "t (df)",
        "Welch",
        f"Holm, m = {len(found)}",
        "permutation",
    ]
    return Table("comparisons", [(name, "") for name in names], rows, plain=flat)


def _signed(value: float, measure: Measure) -> str:
    return ("−" if value < 0 else "+") + measure.text(abs(value))


def pair_scores(scores: Sequence[PairScore]) -> Table:
    """Checkpoints on the held-out pairs."""
    rows, flat = [], []
    for s in scores:
        rows.append(
            [
                setting(s.variant, (f"seed {s.seed}",)),
                Cell(f"{s.accuracy.mean:.3f}", s.accuracy.mean, (f"{s.accuracy.low:.3f} to {s.accuracy.high:.3f}",)),
                Cell(format_p(s.against_even.p), s.against_even.p),
                Cell(
                    format_number(s.margin.mean),
                    s.margin.mean,
                    (f"{format_number(s.margin.low)} to {format_number(s.margin.high)}",),
                ),
                Cell(str(s.accuracy.n), float(s.accuracy.n), (f"{s.ties} tied",)),
            ]
        )
        flat.append(
            {
                "variant": s.variant.name,
                "seed": s.seed,
                "pairs": s.accuracy.n,
                "ties": s.ties,
                "accuracy": s.accuracy.mean,
                "accuracy_low": s.accuracy.low,
                "accuracy_high": s.accuracy.high,
                "p_sign_test": s.against_even.p,
                "margin": s.margin.mean,
                "margin_low": s.margin.low,
                "margin_high": s.margin.high,
            }
        )
    columns = [
        ("checkpoint", ""), ("pair accuracy", "share, 95 % Wilson"), ("against one half", "exact sign test"),
        ("margin", "nats, 95 % t over pairs"), ("pairs", ""),
    ]  # fmt: skip
    return Table("checkpoints", columns, rows, plain=flat)


def paired_tests(tests: Sequence[PairedTest]) -> Table:
    """Exact McNemar between checkpoints."""
    rows = [
        [
            setting(t.first),
            setting(t.second),
            Cell(str(t.only_first), float(t.only_first)),
            Cell(str(t.only_second), float(t.only_second)),
            Cell(str(t.items), float(t.items)),
            Cell(format_p(t.exact.p), t.exact.p),
            Cell(format_p(t.adjusted), t.adjusted),
        ]
        for t in tests
    ]
    flat = [
        {
            "first": t.first.name,
            "second": t.second.name,
            "items": t.items,
            "only_first": t.only_first,
            "only_second": t.only_second,
            "p_mcnemar": t.exact.p,
            "p_holm": t.adjusted,
        }
        for t in tests
    ]
    names = ["first", "second", "only first right", "only second right", "items", "McNemar", f"Holm, m = {len(tests)}"]
    return Table("paired_checkpoints", [(name, "") for name in names], rows, plain=flat)


def before_after(found: Sequence[Change]) -> Table:
    """Each checkpoint's held-out measures before training and after it."""
    rows, flat = [], []
    for c in found:
        text = c.measure.text
        ends = [Cell(text(i.mean), i.mean, (f"{text(i.low)} to {text(i.high)}",)) for i in (c.before, c.after)]
        rows.append([setting(c.variant), Cell(c.measure.axis_label), *ends, Cell(c.amount, c.change.mean), Cell(c.how)])
        flat.append(
            {
                "variant": c.variant.name,
                "measure": c.measure.column,
                "items": c.after.n,
                "before": c.before.mean,
                "before_low": c.before.low,
                "before_high": c.before.high,
                "after": c.after.mean,
                "after_low": c.after.low,
                "after_high": c.after.high,
                "change": c.change.mean,
                "change_low": c.change.low,
                "change_high": c.change.high,
                "p_mcnemar": c.p,
            }
        )
    names = ["checkpoint", "measure", "before", "after", "change", "how it was compared"]
    return Table("before_after", [(name, "") for name in names], rows, plain=flat)
