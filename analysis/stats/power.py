"""Before a run: how large a difference must be to be found."""

from __future__ import annotations

import math

from scipy import special


def minimum_detectable_effect(n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Difference of two means, in seed standard deviations, that a two-sided t test finds with this power.

    n: seeds a group, equal in both, at least 2. Solved by bisection on the non-central t.
    """
    if n < 2:
        return math.nan
    return _detectable(2 * n - 2, math.sqrt(n / 2), power, alpha)


def detectable_mean(n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Mean of n paired differences, in their standard deviations, that a two-sided t test finds with this power.

    For two checkpoints on n prompts, or for pairs of seeds. NaN below two.
    """
    return _detectable(n - 1, math.sqrt(n), power, alpha) if n >= 2 else math.nan


def detectable_rate(n: int, discordant: float = 0.5, power: float = 0.8, alpha: float = 0.05) -> float:
    """Difference of two checkpoints' pass rates on the same n prompts that McNemar's test finds with this power.

    discordant: the share of prompts that one passes and the other does not; one half is what two independent
    checkpoints with a rate of one half have, the most that equal ones can. Normal approximation (Connor, Biometrics
    1987). NaN where no difference up to the discordant share is found.
    """
    reach_alpha, reach_power = float(special.ndtri(1 - alpha / 2)), float(special.ndtri(power))

    def found(difference: float) -> bool:
        spread = math.sqrt(max(0.0, discordant - difference**2))
        return math.sqrt(n) * difference >= reach_alpha * math.sqrt(discordant) + reach_power * spread

    if n < 1 or not found(discordant):
        return math.nan
    low, high = 0.0, discordant
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def _detectable(df: int, root: float, power: float, alpha: float) -> float:
    """The effect whose non-central t, of non-centrality effect x root, is significant with this power; by bisection."""
    critical = float(special.stdtrit(df, 1 - alpha / 2))

    def power_at(effect: float) -> float:
        shift = effect * root
        return float(1 - special.nctdtr(df, shift, critical) + special.nctdtr(df, shift, -critical))

    low, high = 0.0, 200.0 / root
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if power_at(middle) < power else (low, middle)
    return high
