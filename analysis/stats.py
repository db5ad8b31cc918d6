"""What a comparison rests on: intervals, tests and the frontier, as pure functions of numbers.

Everything is two-sided at 95 % unless said. A quantity that the data cannot carry (one seed, no spread) is NaN, never a
guess. scipy.special holds the distributions: scipy.stats costs a second to import.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from scipy import special

MAX_ARRANGEMENTS = 200_000


@dataclass(frozen=True)
class Interval:
    """A mean or rate with its interval; low and high are NaN where none can be given."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class WelchTest:
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


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student t interval with n - 1 degrees of freedom; NaN limits with fewer than two values."""
    data = np.asarray(values, dtype=float)
    n = len(data)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(data.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(special.stdtrit(n - 1, 0.5 + level / 2) * data.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def ratio_interval(sums: Sequence[float], sizes: Sequence[float], level: float = 0.95) -> Interval:
    """Sum over sum, such as nats a token, with a t interval over clusters: sums and sizes of each, such as each row's.

    The error is that of the residuals, sqrt(sum of (sum - ratio size)^2) / total x sqrt(C / (C - 1)), t with C - 1
    degrees of freedom; NaN limits with fewer than two clusters.
    """
    total, counts = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    clusters = len(total)
    if clusters == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    ratio = float(total.sum() / counts.sum())
    if clusters == 1:
        return Interval(ratio, math.nan, math.nan, 1)
    residuals = total - ratio * counts
    error = math.sqrt(float(residuals @ residuals) * clusters / (clusters - 1)) / float(counts.sum())
    half = float(special.stdtrit(clusters - 1, 0.5 + level / 2)) * error
    return Interval(ratio, ratio - half, ratio + half, clusters)


def one_sample_p(values: Sequence[float], null: float = 0.0) -> float:
    """Two-sided p of Student's one-sample t test; NaN with fewer than two values or no spread."""
    data = np.asarray(values, dtype=float)
    if len(data) < 2 or not data.std(ddof=1) > 1e-12 * max(1.0, float(np.abs(data).max())):
        return math.nan
    t = (data.mean() - null) / (data.std(ddof=1) / math.sqrt(len(data)))
    return float(2 * special.stdtr(len(data) - 1, -abs(t)))


def welch(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> WelchTest:
    """Welch's t test of two means with unequal variances (Welch 1947).

    With fewer than two values on a side, or no spread on either, there is nothing to judge a difference by: t, df, p
    and the interval are NaN.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    difference = float(a.mean() - b.mean()) if len(a) and len(b) else math.nan
    if len(a) < 2 or len(b) < 2:
        return WelchTest(difference, math.nan, math.nan, math.nan, math.nan, math.nan)
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    error = math.sqrt(va + vb)
    if not error > 1e-12 * max(1.0, float(np.abs(a).max()), float(np.abs(b).max())):
        return WelchTest(difference, math.nan, math.nan, math.nan, math.nan, math.nan)
    df = float((va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)))
    t = difference / error
    half = float(special.stdtrit(df, 0.5 + level / 2)) * error
    return WelchTest(difference, difference - half, difference + half, t, df, float(2 * special.stdtr(df, -abs(t))))


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


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a rate (Wilson 1927); ties may be counted as half a success."""
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    z = float(special.ndtri(0.5 + level / 2))
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half), n)


def permutation_p(
    first: Sequence[float], second: Sequence[float], generator: np.random.Generator | None = None
) -> ExactTest:
    """Two-sided permutation p for a difference of means, over every way to deal the values into the two groups.

    Beyond 200,000 arrangements as many are drawn from generator and p = (1 + count) / (1 + drawn).
    """
    pooled = np.asarray([*first, *second], dtype=float)
    k, n = len(first), len(pooled)
    if k == 0 or k == n:
        return ExactTest(math.nan, math.nan)
    total = float(pooled.sum())
    arrangements = math.comb(n, k)

    def distance(sums: np.ndarray) -> np.ndarray:
        return np.abs(sums / k - (total - sums) / (n - k))

    limit = float(distance(pooled[:k].sum())) - 1e-9 * max(1.0, float(np.abs(pooled).max()))
    if arrangements <= MAX_ARRANGEMENTS:
        chosen = np.array(list(combinations(range(n), k)))
        count = int((distance(pooled[chosen].sum(axis=1)) >= limit).sum())
        return ExactTest(count / arrangements, (2 if 2 * k == n else 1) / arrangements)
    if generator is None:
        raise ValueError(f"{arrangements} arrangements are too many to list; pass a generator to draw from them")
    drawn = 10_000
    sums = np.array([generator.permutation(pooled)[:k].sum() for _ in range(drawn)])
    return ExactTest((1 + int((distance(sums) >= limit).sum())) / (1 + drawn), 1 / (1 + drawn))


def sign_flip_p(differences: Sequence[float]) -> ExactTest:
    """Two-sided exact sign-flip p for a mean of paired differences of zero; at most 17 differences."""
    data = np.asarray(differences, dtype=float)
    n = len(data)
    if n == 0:
        return ExactTest(math.nan, math.nan)
    if 2**n > MAX_ARRANGEMENTS:
        raise ValueError(f"{n} differences have too many sign flips to list")
    signs = np.array(list(product((1.0, -1.0), repeat=n)))
    limit = abs(float(data.sum())) - 1e-9 * max(1.0, float(np.abs(data).max()))
    return ExactTest(int((np.abs(signs @ data) >= limit).sum()) / 2**n, 2 / 2**n)


def minimum_detectable_effect(n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Difference of two means, in seed standard deviations, that a two-sided t test finds with this power.

    n: seeds a group, equal in both, at least 2. Solved by bisection on the non-central t.
    """
    if n < 2:
        return math.nan
    df = 2 * n - 2
    critical = float(special.stdtrit(df, 1 - alpha / 2))

    def power_at(effect: float) -> float:
        shift = effect * math.sqrt(n / 2)
        return float(1 - special.nctdtr(df, shift, critical) + special.nctdtr(df, shift, -critical))

    low, high = 0.0, 50.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if power_at(middle) < power else (low, middle)
    return high


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
    """(items only the first got right, items only the second got right, exact McNemar test) on the same items."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"McNemar needs the same items on both sides, got {len(a)} and {len(b)}")
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    return only_first, only_second, sign_test(only_first, only_second)


def frontier(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that no other point beats (cost no higher, value no lower, one of them better).

    In order of rising cost. Points with NaN are never on it; equal points are on it together.
    """
    points = [(c, v, i) for i, (c, v) in enumerate(zip(costs, values, strict=True)) if not math.isnan(c + v)]
    kept = [(c, v, i) for c, v, i in points if not any(x <= c and y >= v and (x < c or y > v) for x, y, _ in points)]
    return [i for _, _, i in sorted(kept)]


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
