"""Cells that several tables write alike."""

from __future__ import annotations

import math

from analysis import stats
from analysis.document import Cell
from analysis.measures import Measure
from analysis.study import Variant


def setting(variant: Variant, lines: tuple[str, ...] = (), tone: str = "") -> Cell:
    """A variant's name, sorted by its value on the axis where that is all that tells variants apart."""
    by_name = bool(variant.group) or variant.position is None
    return Cell(variant.label, variant.label if by_name else variant.position, lines, tone)


def with_interval(interval: stats.Interval, measure: Measure, more: tuple[str, ...] = (), tone: str = "") -> Cell:
    """A mean, below it its limits where it has any (of a rate between 0 and 1), below these what else is given."""
    limits = limits_text(interval, measure)
    return Cell(measure.text(interval.mean), interval.mean, ((limits,) if limits else ()) + more, tone)


def limits_text(interval: stats.Interval, measure: Measure) -> str:
    """ "low to high", those of a rate cut at 0 and 1; empty without an interval or without width."""
    low, high = interval.low, interval.high
    if math.isnan(low) or not high - low > 1e-12 * abs(interval.mean):
        return ""
    if measure.kind == "rate":
        low, high = max(0.0, low), min(1.0, high)
    return f"{measure.text(low)} to {measure.text(high)}"


def signed(value: float, measure: Measure) -> str:
    """The value as its measure writes it, with its sign."""
    return ("−" if value < 0 else "+") + measure.text(abs(value))
