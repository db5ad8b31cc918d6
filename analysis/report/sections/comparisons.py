"""Every setting against every other, by their seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.inference.claims import Comparison, compare_all
from analysis.measures import Measure, format_p
from analysis.report.document import Cell, Section, Table
from analysis.report.plots import Canvas
from analysis.report.sections.cells import setting, signed
from analysis.study import Study
from workbench.tracking.words import plural

SHOWN = 12
"""Rows up to which the table is not folded."""


def section(study: Study, canvas: Canvas) -> Section | None:
    """Welch's tests of the deciding measure; None with fewer than two settings of two seeds."""
    found = compare_all(study, study.deciding) if study.deciding else []
    if not found or study.deciding is None:
        return None
    return Section("Every setting against every other", [table(found, study.deciding)])


def table(found: Sequence[Comparison], measure: Measure) -> Table:
    """Every pair of settings by Welch's test."""
    rows, flat = [], []
    for c in found:
        t = c.test
        difference = measure.text(abs(t.difference))
        sign = "+" if t.difference >= 0 else "−"
        interval = "–" if math.isnan(t.low) else f"{signed(t.low, measure)} to {signed(t.high, measure)}"
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
    count = f"{len(rows)} comparison{'s' if len(rows) > 1 else ''} of {measure.label}, by Welch's test on seed means"
    caption = (
        f"Difference is first less second. Holm adjusts over {plural(len(rows), 'row')}, since the best was found by "
        "looking. The last column is the exact permutation p with the least value that this many seeds can reach: "
        "where the floor is above 0.05, the claim rests on near-normal scatter."
    )
    heads = [(name, "") for name in names]
    folded = count if len(rows) > SHOWN else ""
    return Table("comparisons", heads, rows, flat, label=count, caption=caption, broad=True, folded=folded)
