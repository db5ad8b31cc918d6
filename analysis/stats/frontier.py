"""What no other point beats at no higher cost, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def frontier(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that no other point beats (cost no higher, value no lower, one of them better).

    In order of rising cost. Points with NaN are never on it; equal points are on it together.
    """
    points = [(c, v, i) for i, (c, v) in enumerate(zip(costs, values, strict=True)) if not math.isnan(c + v)]
    kept = [(c, v, i) for c, v, i in points if not any(x <= c and y >= v and (x < c or y > v) for x, y, _ in points)]
    return [i for _, _, i in sorted(kept)]


def frontier_probability(
    costs: Sequence[Sequence[float]],
    values: Sequence[Sequence[float]],
    generator: np.random.Generator,
    draws: int = 10_000,
    fixed: Sequence[tuple[float, float]] = (),
) -> list[float]:
    """How probable it is that each setting is on the frontier of true means, given its seeds.

    costs[i][k] and values[i][k] are setting i's seed k; fixed are (cost, value) points known exactly, as the start is.
    A parametric bootstrap: each setting's mean is drawn from the bivariate Student distribution of n - 1 degrees of
    freedom that its seeds' means and covariance give, so that the draws spread as its t intervals do. (Resampling three
    or five seeds with replacement spreads far less than their mean is uncertain.) A draw puts a setting on the frontier
    when no other setting and no fixed point beats it. NaN for a setting with one seed, which also beats no other: how
    sure its place is, nobody knows.
    """
    if len(costs) != len(values):
        raise ValueError(f"every setting needs costs and values, got {len(costs)} and {len(values)}")
    able = [i for i, (x, y) in enumerate(zip(costs, values, strict=True)) if len(x) == len(y) >= 2]
    drawn = np.empty((len(able) + len(fixed), 2, draws))
    for place, i in enumerate(able):
        drawn[place] = _draw_mean(np.array([costs[i], values[i]], dtype=float), generator, draws)
    for place, point in enumerate(fixed, start=len(able)):
        drawn[place] = np.array(point, dtype=float)[:, None]
    found = [math.nan] * len(costs)
    x, y = drawn[:, 0], drawn[:, 1]
    for place, i in enumerate(able):
        beaten = (x <= x[place]) & (y >= y[place]) & ((x < x[place]) | (y > y[place]))
        found[i] = float(1 - beaten.any(axis=0).mean())
    return found


def _draw_mean(seeds: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
    """(2, draws) draws of the mean of (2, n) seeds."""
    n = seeds.shape[1]
    mean = seeds.mean(axis=1)
    # The residuals themselves are a root of their covariance, also where it has no inverse.
    root = (seeds - mean[:, None]) / math.sqrt(n - 1)
    scale = np.sqrt((n - 1) / generator.chisquare(n - 1, draws)) / math.sqrt(n)
    return mean[:, None] + root @ generator.standard_normal((n, draws)) * scale
