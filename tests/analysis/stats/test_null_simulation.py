"""How often the report's methods call equal methods different, and how often their intervals hold the truth.

The null: 500 prompts with real scores, paired differences of standard deviation about 1, a seed standard deviation of
0.1, 20,000 repeats. `python -m tests.analysis.stats.test_null_simulation` prints the table of docs/log.md.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import special

from analysis import stats

PROMPTS, SEED_SD, PROMPT_SD = 500, 0.1, 0.5**0.5
"""A prompt's score varies by PROMPT_SD in each run, so that the difference of two runs varies by 1. Prompts themselves
differ by a standard deviation of 1, which every run on them shares."""
REPEATS = 20_000
LEVEL = 0.05


def seed_means(rng: np.random.Generator, repeats: int, methods: int, seeds: int) -> np.ndarray:
    """(repeats, methods, seeds) scores of equal methods: the mean of 500 normal noises is normal itself."""
    sd = (SEED_SD**2 + PROMPT_SD**2 / PROMPTS) ** 0.5
    return 0.5 + sd * rng.standard_normal((repeats, methods, seeds))


def welch_of_all(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(p, low, high) of stats.welch, row by row."""
    va, vb = a.var(axis=1, ddof=1) / a.shape[1], b.var(axis=1, ddof=1) / b.shape[1]
    error = np.sqrt(va + vb)
    df = (va + vb) ** 2 / (va**2 / (a.shape[1] - 1) + vb**2 / (b.shape[1] - 1))
    difference = a.mean(axis=1) - b.mean(axis=1)
    half = special.stdtrit(df, 0.975) * error
    return 2 * special.stdtr(df, -np.abs(difference / error)), difference - half, difference + half


def holm_rejects_any(p: np.ndarray) -> np.ndarray:
    """Whether Holm's procedure rejects one or more, row by row: its first step decides."""
    return p.min(axis=1) * p.shape[1] < LEVEL


def false_method_claims(seeds: int, methods: int, repeats: int = REPEATS) -> float:
    """Share of repeats in which the report would call some two of the equal methods different."""
    scores = seed_means(np.random.default_rng([seeds, methods]), repeats, methods, seeds)
    pairs = [welch_of_all(scores[:, i], scores[:, j])[0] for i, j in combinations(range(methods), 2)]
    return float(holm_rejects_any(np.stack(pairs, axis=1)).mean())


def coverage(seeds: int, repeats: int = REPEATS) -> tuple[float, float]:
    """Share of 95 % intervals that hold the truth: of a method's mean (t), of a difference (Welch)."""
    scores = seed_means(np.random.default_rng([seeds, 7]), repeats, 2, seeds)
    one = scores[:, 0]
    half = special.stdtrit(seeds - 1, 0.975) * one.std(axis=1, ddof=1) / seeds**0.5
    _, low, high = welch_of_all(scores[:, 0], scores[:, 1])
    return float((np.abs(one.mean(axis=1) - 0.5) <= half).mean()), float(((low <= 0) & (high >= 0)).mean())


def wrong_levels(repeats: int = 2_000) -> tuple[float, float]:
    """False claims of tests that the report does not use: per-prompt paired on one seed, and pooled over 3 seeds."""
    rng = np.random.default_rng(11)
    paired = pooled = 0
    for _ in range(repeats):
        seeds = SEED_SD * rng.standard_normal((2, 3, 1))
        scores = rng.standard_normal(PROMPTS) + seeds + PROMPT_SD * rng.standard_normal((2, 3, PROMPTS))
        paired += stats.mean_difference(scores[0, 0] - scores[1, 0])[1] < LEVEL
        pooled += stats.welch(scores[0].ravel(), scores[1].ravel()).p < LEVEL
    return paired / repeats, pooled / repeats


def clustered_flips(repeats: int = 400) -> tuple[float, float]:
    """False claims of sign flips with 40 passages of 5 prompts each, whole clusters flipped and prompts flipped."""
    rng = np.random.default_rng(12)
    whole = single = 0
    for _ in range(repeats):
        differences = (rng.standard_normal((40, 1)) + 0.7 * rng.standard_normal((40, 5))).ravel()
        clusters = np.repeat(np.arange(40), 5).tolist()
        whole += stats.sign_flip_p(differences, rng, clusters, draws=500).p < LEVEL
        single += stats.sign_flip_p(differences, rng, draws=500).p < LEVEL
    return whole / repeats, single / repeats


def test_the_simulation_uses_the_report_s_own_tests() -> None:
    scores = seed_means(np.random.default_rng(0), 50, 3, 4)
    pairs = list(combinations(range(3), 2))
    rows = [welch_of_all(scores[:, i], scores[:, j]) for i, j in pairs]
    for k in range(50):
        ours = [stats.welch(scores[k, i], scores[k, j]) for i, j in pairs]
        assert [row[0][k] for row in rows] == pytest.approx([test.p for test in ours])
        assert [row[1][k] for row in rows] == pytest.approx([test.low for test in ours])
        assert [row[2][k] for row in rows] == pytest.approx([test.high for test in ours])
        adjusted = stats.holm([test.p for test in ours])
        assert holm_rejects_any(np.array([[test.p for test in ours]]))[0] == (min(adjusted) < LEVEL)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("methods", [2, 4])
def test_equal_methods_are_called_different_at_most_once_in_twenty(seeds: int, methods: int) -> None:
    assert false_method_claims(seeds, methods) <= LEVEL


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_of_a_mean_hold_the_truth_as_often_as_they_say(seeds: int) -> None:
    of_mean, of_difference = coverage(seeds)
    assert 0.94 <= of_mean <= 0.96
    # Welch's degrees of freedom are estimated too: a little wide at three seeds, never narrow.
    assert 0.94 <= of_difference <= (0.97 if seeds == 3 else 0.96)


def test_what_the_report_does_not_do_calls_most_equal_methods_different() -> None:
    paired, pooled = wrong_levels(600)
    assert paired == pytest.approx(0.55, abs=0.05)
    assert pooled == pytest.approx(0.30, abs=0.05)


def test_sign_flips_of_prompts_within_passages_are_wrong_and_of_passages_right() -> None:
    whole, single = clustered_flips()
    assert whole < 0.075
    assert single > 0.25


if __name__ == "__main__":
    for count in (3, 5, 10):
        two, four = (false_method_claims(count, methods) for methods in (2, 4))
        of_mean, of_difference = coverage(count)
        print(f"n = {count}: false claims {two:.4f} of 2 methods, {four:.4f} of 4 (any pair, Holm over 6);", end=" ")
        print(f"coverage {of_mean:.4f} of a mean, {of_difference:.4f} of a difference")
    print("per prompt on one seed {:.3f}, pooled over 3 seeds {:.3f}".format(*wrong_levels()))
    print("sign flips of whole passages {:.3f}, of prompts within them {:.3f}".format(*clustered_flips(2000)))
