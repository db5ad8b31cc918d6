"""Curves through evaluations: areas, values and crossings within what was measured, and smoothing for the eye."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def smooth(values: Sequence[float], span: float) -> np.ndarray:
    """Exponential moving average with bias correction, for drawing only; a NaN repeats the average before it."""
    keep = 1 - 2 / (span + 1) if span > 1 else 0.0
    average, weight = 0.0, 0.0
    out = np.empty(len(values))
    for i, value in enumerate(values):
        if not math.isnan(value):
            average, weight = keep * average + (1 - keep) * value, keep * weight + (1 - keep)
        out[i] = average / weight if weight else math.nan
    return out


def mean_over_range(x: Sequence[float], y: Sequence[float], low: float, high: float) -> float:
    """The area under the curve through the points between low and high, over the width; never extrapolated.

    x rises. NaN where the range is empty or reaches beyond the points.
    """
    if len(x) < 2 or not x[0] <= low < high <= x[-1]:
        return math.nan
    inside = [point for point in x if low < point < high]
    grid = np.array([low, *inside, high])
    return float(np.trapezoid(np.interp(grid, x, y), grid) / (high - low))


def value_at(x: Sequence[float], y: Sequence[float], where: float) -> float:
    """The curve through the points, x rising, at one place; NaN beyond its ends."""
    return float(np.interp(where, x, y)) if len(x) and x[0] <= where <= x[-1] else math.nan


def first_held(x: Sequence[float], y: Sequence[float], threshold: float, held: int = 2) -> float:
    """The first x from which `held` values in a row are at the threshold or above; NaN where none are (censored)."""
    for i in range(len(y) - held + 1):
        if all(value >= threshold for value in y[i : i + held]):
            return float(x[i])
    return math.nan
