"""Two checkpoints on the same held-out items. Nothing here speaks of methods: another seed is another checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from analysis.stats.intervals import Interval, has_spread
from analysis.stats.significance import ExactTest


def average_samples(items: Sequence[str], values: Sequence[float]) -> tuple[list[str], np.ndarray]:
    """(items in the order met, mean of each one's samples): K samples of a prompt are one number, not K."""
    places = {item: i for i, item in enumerate(dict.fromkeys(items))}
    index = np.array([places[item] for item in items], dtype=int)
    counts = np.bincount(index, minlength=len(places))
    return list(places), np.bincount(index, weights=np.asarray(values, dtype=float), minlength=len(places)) / counts


def mean_difference(
    differences: Sequence[float], clusters: Sequence[object] | None = None, level: float = 0.95
) -> tuple[Interval, float]:
    """(mean of paired per-item differences with its interval, two-sided p that it is zero) (Miller, arXiv 2411.00640).

    Without clusters the standard error is that of a mean of n differences. With clusters, residuals r about the mean:
    sqrt(sum over clusters of (sum of r in it)^2) / n x sqrt(C / (C - 1)), and Student's t with C - 1 degrees of
    freedom. The interval's n is C. NaN limits and p with fewer than two clusters or no spread.
    """
    data = np.asarray(differences, dtype=float)
    if len(data) == 0:
        return Interval(math.nan, math.nan, math.nan, 0), math.nan
    names = list(range(len(data))) if clusters is None else list(clusters)
    if len(names) != len(data):
        raise ValueError(f"every difference needs its cluster, got {len(data)} and {len(names)}")
    places = {name: i for i, name in enumerate(dict.fromkeys(names))}
    count = len(places)
    if not np.isfinite(data).all():
        return Interval(math.nan, math.nan, math.nan, count), math.nan
    mean = float(data.mean())
    if count < 2:
        return Interval(mean, math.nan, math.nan, count), math.nan
    sums = np.bincount([places[name] for name in names], weights=data - mean)
    error = math.sqrt(float(sums @ sums) * count / (count - 1)) / len(data)
    if not has_spread(error, data):
        return Interval(mean, math.nan, math.nan, count, is_constant=True), math.nan
    half = float(special.stdtrit(count - 1, 0.5 + level / 2)) * error
    p = float(2 * special.stdtr(count - 1, -abs(mean / error)))
    return Interval(mean, mean - half, mean + half, count), p


def sign_test(first: int, second: int) -> ExactTest:
    """Exact two-sided binomial p that two counts come from a fair coin.

    With the discordant counts of two checkpoints on the same items this is the exact McNemar test; with the numbers of
    positive and negative values it is the sign test. Ties are left out by the caller.
    """
    n = first + second
    if n == 0:
        return ExactTest(1.0, 1.0)
    return ExactTest(min(1.0, 2 * float(special.bdtr(min(first, second), n, 0.5))), min(1.0, 2 * 0.5**n))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, ExactTest]:
    """(items only the first got right, items only the second got right, exact McNemar test) on the same items.

    Raises ValueError for values that are neither right (1) nor wrong (0): a missing one or a share is no answer.
    """
    a, b = (_right_or_wrong(values) for values in (first, second))
    if a.shape != b.shape:
        raise ValueError(f"McNemar needs the same items on both sides, got {len(a)} and {len(b)}")
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    return only_first, only_second, sign_test(only_first, only_second)


def _right_or_wrong(values: Sequence[bool]) -> np.ndarray:
    """The values as booleans."""
    data = np.asarray(values, dtype=float)
    odd = data[(data != 0) & (data != 1)]
    if len(odd):
        raise ValueError(f"McNemar needs right or wrong (1 or 0) of every item, got {odd[0]:g}")
    return data == 1
