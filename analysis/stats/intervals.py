"""Means and rates with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special


@dataclass(frozen=True)
class Interval:
    """A mean or rate with its interval; low and high are NaN where none can be given. is_constant: for all n values are
    the same, which says nothing of how far another may lie."""

    mean: float
    low: float
    high: float
    n: int
    is_constant: bool = False


def has_spread(error: float, *values: np.ndarray) -> bool:
    """Whether a standard deviation or error is more than what rounding leaves of values that are the same."""
    return error > 1e-12 * max((float(np.abs(part).max()) for part in values if len(part)), default=0.0)


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student t interval with n - 1 degrees of freedom; NaN limits with fewer than two values, without spread,
    and with a value that is not finite."""
    data = np.asarray(values, dtype=float)
    n = len(data)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    if not np.isfinite(data).all():
        return Interval(math.nan, math.nan, math.nan, n)
    mean = float(data.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    deviation = float(data.std(ddof=1))
    if not has_spread(deviation, data):
        return Interval(mean, math.nan, math.nan, n, is_constant=True)
    half = float(special.stdtrit(n - 1, 0.5 + level / 2)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def ratio_interval(sums: Sequence[float], sizes: Sequence[float], level: float = 0.95) -> Interval:
    """Sum over sum, such as nats a token, with a t interval over clusters: sums and sizes of each, such as each row's.

    The error is that of the residuals, sqrt(sum of (sum - ratio size)^2) / total x sqrt(C / (C - 1)), t with C - 1
    degrees of freedom; NaN limits with fewer than two clusters, and without residuals; all NaN where the sizes come to
    nothing or a value is not finite.
    """
    total, counts = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    if total.shape != counts.shape:
        raise ValueError(f"every sum needs its size, got {len(total)} and {len(counts)}")
    clusters = len(total)
    finite = bool(np.isfinite(total).all() and np.isfinite(counts).all())
    if not finite or not counts.sum() > 0:
        return Interval(math.nan, math.nan, math.nan, clusters)
    ratio = float(total.sum() / counts.sum())
    if clusters == 1:
        return Interval(ratio, math.nan, math.nan, 1)
    residuals = total - ratio * counts
    error = math.sqrt(float(residuals @ residuals) * clusters / (clusters - 1)) / float(counts.sum())
    if not has_spread(error, total / float(counts.sum())):
        return Interval(ratio, math.nan, math.nan, clusters, is_constant=True)
    half = float(special.stdtrit(clusters - 1, 0.5 + level / 2)) * error
    return Interval(ratio, ratio - half, ratio + half, clusters)


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a rate (Wilson 1927); ties may be half a success, NaN gives NaN."""
    if n == 0 or math.isnan(successes):
        return Interval(math.nan, math.nan, math.nan, n)
    z = float(special.ndtri(0.5 + level / 2))
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half), n)
