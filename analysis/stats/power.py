"""Says before a run how large a difference must be to be found, by the very tests that the report decides by."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import special

SHARES, SPREADS = 48, 512
"""Points at which the distribution of the two variances' ratio, and of their sum, is taken: equal in probability."""


@functools.cache
def minimum_detectable_effect(n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Difference of two means, in seed standard deviations, that a two-sided Welch test finds with this power.

    n: seeds a group, equal in both, at least 2 (else NaN). alpha: the level of one comparison; under Holm that of the
    first of m is 0.05 / m. By bisection on the power itself, which is integrated over both variances: the test's
    degrees of freedom depend on their ratio. (The non-central t would be the pooled test's, which finds more; scipy's
    fails at small levels.)
    """
    if n < 2:
        return math.nan
    df = n - 1
    # For normal values, one variance's share u of the sum of both is Beta(df/2, df/2), and independent of the sum.
    share = special.betaincinv(df / 2, df / 2, _midpoints(SHARES))
    critical = special.stdtrit(df / (share**2 + (1 - share) ** 2), 1 - alpha / 2)[:, None]
    # The sum over its expectation is a chi-square with 2 df degrees of freedom, over these.
    bounds = critical * np.sqrt(special.gammaincinv(df, _midpoints(SPREADS)) / df)

    def power_at(effect: float) -> float:
        shift = effect * math.sqrt(n / 2)
        return float((special.ndtr(shift - bounds) + special.ndtr(-shift - bounds)).mean())

    return _smallest(power_at, power)


def detectable_mean(n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Mean of n paired differences, in their standard deviations, that a two-sided t test finds with this power.

    For two checkpoints on n prompts, or for pairs of seeds. NaN below two.
    """
    if n < 2:
        return math.nan
    bounds = special.stdtrit(n - 1, 1 - alpha / 2) * np.sqrt(2 * special.gammaincinv((n - 1) / 2, _midpoints(4096)))
    bounds /= math.sqrt(n - 1)

    def power_at(effect: float) -> float:
        shift = effect * math.sqrt(n)
        return float((special.ndtr(shift - bounds) + special.ndtr(-shift - bounds)).mean())

    return _smallest(power_at, power)


@functools.cache
def detectable_rate(n: int, discordant: float = 0.5, power: float = 0.8, alpha: float = 0.05) -> float:
    """Difference of two checkpoints' pass rates on the same n prompts that exact McNemar finds with this power.

    discordant: the share of prompts that one passes and the other does not; one half is what two independent
    checkpoints with a rate of one half have, the most that equal ones can. The power is the binomial sum itself. NaN
    where no difference up to the discordant share is found.
    """
    if n < 1:
        return math.nan
    spread = math.sqrt(n * discordant * (1 - discordant))
    low, high = (math.floor(n * discordant + side * (9 * spread + 9)) for side in (-1, 1))
    numbers = np.arange(max(0, low), min(n, high) + 1, dtype=float)  # of prompts on which they differ
    log_choose = special.gammaln(n + 1) - special.gammaln(numbers + 1) - special.gammaln(n - numbers + 1)
    chances = np.exp(log_choose + special.xlogy(numbers, discordant) + special.xlog1py(n - numbers, -discordant))
    # The largest count of the rarer side that is significant; -1: none.
    most = np.floor(special.bdtrik(alpha / 2, np.maximum(numbers, 1), 0.5))
    most = np.where(np.isfinite(most), most, -1.0)
    most += (_at_most(most + 1, numbers, 0.5) < alpha / 2).astype(float)
    most -= (_at_most(most, numbers, 0.5) >= alpha / 2).astype(float)

    def power_at(difference: float) -> float:
        first = 0.5 + difference / (2 * discordant)
        found = _at_most(most, numbers, first) + _at_most(most, numbers, 1 - first)
        return float((chances * found).sum())

    return _smallest(power_at, power, discordant) if power_at(discordant) >= power else math.nan


def _at_most(count: np.ndarray, number: np.ndarray, chance: float) -> np.ndarray:
    """P(at most `count` of `number`), 0 for a negative count."""
    return np.where(count < 0, 0.0, special.bdtr(np.clip(count, 0, number), number.astype(int), chance))


def _midpoints(number: int) -> np.ndarray:
    return (np.arange(number) + 0.5) / number


def _smallest(power_at: Callable[[float], float], power: float, most: float = math.inf) -> float:
    """The smallest effect with this power, by bisection; `most` has it."""
    high = 1.0
    while high < most and power_at(high) < power:
        high *= 2
    low, high = 0.0, min(high, most)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power_at(middle) < power else (low, middle)
    return high
