"""Tests of means over seeds, exact tests beside them, and the adjustment for having looked at several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from scipy import special

from analysis.stats.intervals import has_spread

MAX_ARRANGEMENTS = 200_000


@dataclass(frozen=True)
class TTest:
    """Difference of two means (first less second) with its interval, t, degrees of freedom and two-sided p."""

    difference: float
    low: float
    high: float
    t: float
    df: float
    p: float


@dataclass(frozen=True)
class ExactTest:
    """An exact p and the smallest that this many values could give at all."""

    p: float
    floor: float


def one_sample_p(values: Sequence[float], null: float = 0.0) -> float:
    """Two-sided p of Student's one-sample t test; NaN with fewer than two values or no spread."""
    data = np.asarray(values, dtype=float)
    if len(data) < 2 or not np.isfinite(data).all() or not has_spread(float(data.std(ddof=1)), data):
        return math.nan
    t = (data.mean() - null) / (data.std(ddof=1) / math.sqrt(len(data)))
    return float(2 * special.stdtr(len(data) - 1, -abs(t)))


def welch(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> TTest:
    """Welch's t test of two means with unequal variances (Welch 1947).

    With fewer than two values on a side, or no spread on either, there is nothing to judge a difference by: t, df, p
    and the interval are NaN.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    finite = np.isfinite(a).all() and np.isfinite(b).all()
    difference = float(a.mean() - b.mean()) if len(a) and len(b) and finite else math.nan
    if len(a) < 2 or len(b) < 2 or not finite:
        return TTest(difference, math.nan, math.nan, math.nan, math.nan, math.nan)
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    error = math.sqrt(va + vb)
    if not has_spread(error, a, b):
        return TTest(difference, math.nan, math.nan, math.nan, math.nan, math.nan)
    df = float((va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)))
    t = difference / error
    half = float(special.stdtrit(df, 0.5 + level / 2)) * error
    return TTest(difference, difference - half, difference + half, t, df, float(2 * special.stdtr(df, -abs(t))))


def paired_t(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> TTest:
    """Student's paired t test of two means: first[k] and second[k] share a seed's data order and start.

    Only where they do, and only where that was declared before the runs: pairing that means nothing costs degrees of
    freedom. NaN with fewer than two pairs or without spread in their differences.
    """
    if len(first) != len(second):
        raise ValueError(f"pairs need as many values on both sides, got {len(first)} and {len(second)}")
    data = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    n = len(data)
    mean = float(data.mean()) if n and np.isfinite(data).all() else math.nan
    p = one_sample_p(list(data))
    if math.isnan(p):
        return TTest(mean, math.nan, math.nan, math.nan, math.nan, math.nan)
    error = float(data.std(ddof=1)) / math.sqrt(n)
    half = float(special.stdtrit(n - 1, 0.5 + level / 2)) * error
    return TTest(mean, mean - half, mean + half, mean / error, float(n - 1), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm 1979), in the order given.

    A NaN (a comparison that could not be tested) stays NaN but counts among the m comparisons.
    """
    m = len(p_values)
    adjusted = [math.nan] * m
    running = 0.0
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, i) in enumerate(tested):
        running = max(running, min(1.0, (m - rank) * p))
        adjusted[i] = running
    return adjusted


def permutation_p(
    first: Sequence[float], second: Sequence[float], generator: np.random.Generator | None = None
) -> ExactTest:
    """Two-sided permutation p for a difference of means, over every way to deal the values into the two groups.

    Beyond 200,000 arrangements as many are drawn from generator and p = (1 + count) / (1 + drawn). NaN with an empty
    group or a value that is not finite. Differences count as equal that differ by rounding alone, whatever their unit.
    """
    pooled = np.asarray([*first, *second], dtype=float)
    k, n = len(first), len(pooled)
    if k == 0 or k == n or not np.isfinite(pooled).all():
        return ExactTest(math.nan, math.nan)
    largest = float(np.abs(pooled).max())
    pooled = pooled - pooled[0]  # what all have in common moves no difference, and would only be rounded
    pooled[np.abs(pooled) <= 1e-12 * largest] = 0.0
    total = float(pooled.sum())
    arrangements = math.comb(n, k)

    def distance(sums: np.ndarray) -> np.ndarray:
        return np.abs(sums / k - (total - sums) / (n - k))

    limit = float(distance(pooled[:k].sum())) - 1e-9 * float(np.abs(pooled).max())
    if arrangements <= MAX_ARRANGEMENTS:
        chosen = np.array(list(combinations(range(n), k)))
        count = int((distance(pooled[chosen].sum(axis=1)) >= limit).sum())
        return ExactTest(count / arrangements, (2 if 2 * k == n else 1) / arrangements)
    if generator is None:
        raise ValueError(f"{arrangements} arrangements are too many to list; pass a generator to draw from them")
    drawn = 10_000
    sums = np.array([generator.permutation(pooled)[:k].sum() for _ in range(drawn)])
    return ExactTest((1 + int((distance(sums) >= limit).sum())) / (1 + drawn), 1 / (1 + drawn))


def sign_flip_p(
    differences: Sequence[float],
    generator: np.random.Generator | None = None,
    clusters: Sequence[object] | None = None,
    draws: int = 10_000,
) -> ExactTest:
    """Two-sided sign-flip p for a mean of paired differences of zero.

    clusters: what each difference belongs to (a passage, a template, a prompt of several samples); a cluster's
    differences flip together, for flipped alone they would count as independent. Every flip is looked at up to 17
    clusters; beyond, `draws` are drawn from the generator and p = (1 + count) / (1 + draws). NaN with a difference that
    is not finite. Sums count as equal that differ by rounding alone, whatever their unit.
    """
    data = np.asarray(differences, dtype=float)
    if len(data) == 0 or not np.isfinite(data).all():
        return ExactTest(math.nan, math.nan)
    if clusters is not None:
        if len(clusters) != len(data):
            raise ValueError(f"every difference needs its cluster, got {len(data)} and {len(clusters)}")
        places = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
        data = np.bincount([places[name] for name in clusters], weights=data)
    n = len(data)
    limit = abs(float(data.sum())) - 1e-9 * float(np.abs(data).max())
    if 2**n <= MAX_ARRANGEMENTS:
        signs = np.array(list(product((1.0, -1.0), repeat=n)))
        return ExactTest(int((np.abs(signs @ data) >= limit).sum()) / 2**n, 2 / 2**n)
    if generator is None:
        raise ValueError(f"{n} differences have too many sign flips to list; pass a generator to draw from them")
    count = sum(
        int((np.abs(generator.choice((1.0, -1.0), size=(size, n)) @ data) >= limit).sum())
        for size in (min(1000, draws - begin) for begin in range(0, draws, 1000))
    )
    return ExactTest((1 + count) / (1 + draws), 1 / (1 + draws))
