"""Cells that several tables write alike."""

from __future__ import annotations

import math

from analysis import stats
from analysis.measures import Measure
from analysis.report.document import Cell
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
    """ "low to high", held to what the measure can be; empty without an interval; that all values are the same."""
    if interval.is_constant:
        return f"the same in all {interval.n}"
    found = measure.within(interval)
    return "" if math.isnan(found.low) else measure.span(found.low, found.high)


def signed(value: float, measure: Measure) -> str:
    """The value as its measure writes it, with its sign."""
    return ("−" if value < 0 else "+") + measure.text(abs(value))
