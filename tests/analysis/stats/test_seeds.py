"""Statistics over seeds, runs and tasks: laws, numbers by hand, and peers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as peer
from statsmodels.stats.power import TTestPower

from analysis import stats


def test_paired_t_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=5)
    first, second = start + 0.3 + 0.1 * rng.normal(size=5), start
    theirs = peer.ttest_rel(first, second)
    ours = stats.paired_t(first, second)
    limits = theirs.confidence_interval(0.95)
    assert (ours.t, ours.df, ours.p) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue))
    assert (ours.low, ours.high) == pytest.approx((limits.low, limits.high))
    assert ours.p < stats.welch(first, second).p, "what the seeds share is taken out"


def test_paired_t_without_pairs_is_refused_or_untested() -> None:
    with pytest.raises(ValueError, match="as many"):
        stats.paired_t([0.1, 0.2], [0.1])
    assert math.isnan(stats.paired_t([0.3], [0.1]).p)
    assert math.isnan(stats.paired_t([0.3, 0.4], [0.1, 0.2]).p)


def test_interquartile_mean_by_hand_and_equals_scipy() -> None:
    # Of 1 .. 8 the middle half is 3, 4, 5, 6.
    assert stats.interquartile_mean([[8, 1, 7, 2], [3, 6, 4, 5]], np.random.default_rng(0)).mean == 4.5
    scores = np.random.default_rng(1).normal(size=(3, 11))
    ours = stats.interquartile_mean(list(scores), np.random.default_rng(2))
    assert ours.mean == pytest.approx(peer.trim_mean(scores.ravel(), 0.25))
    assert ours.low < ours.mean < ours.high


def test_interquartile_mean_ignores_one_wild_run() -> None:
    scores = np.random.default_rng(3).normal(size=(2, 12))
    wild = scores.copy()
    wild[0, int(scores[0].argmax())] = 1e6
    ours, again = (stats.interquartile_mean(list(s), np.random.default_rng(4)).mean for s in (scores, wild))
    assert ours == again


def test_resampling_stays_within_tasks() -> None:
    # Tasks without spread over their runs: however far apart they are, resampling runs within them changes nothing.
    interval = stats.interquartile_mean([[0.0] * 10, [100.0] * 10], np.random.default_rng(5))
    assert interval.low == interval.high == interval.mean == 50.0


def test_few_runs_have_no_bootstrap_interval() -> None:
    few = [[0.1] * 9] * 4
    assert math.isnan(stats.interquartile_mean(few, np.random.default_rng(0)).low)
    assert math.isnan(stats.probability_of_improvement(few, few, np.random.default_rng(0)).low)


def test_probability_of_improvement_by_hand_and_equals_mann_whitney() -> None:
    # 2 beats 1 and ties 2, 3 beats both: (1 + 1/2 + 1 + 1) / 4
    chance = stats.probability_of_improvement([[2, 3]], [[1, 2]], np.random.default_rng(0))
    assert chance.mean == 0.875
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 6, (2, 12)), rng.integers(0, 6, (2, 15))
    u = [peer.mannwhitneyu(x, y).statistic / (12 * 15) for x, y in zip(a, b, strict=True)]
    ours = stats.probability_of_improvement(list(a), list(b), np.random.default_rng(2))
    assert ours.mean == pytest.approx(np.mean(u))
    assert ours.low <= ours.mean <= ours.high


def test_improvements_of_each_over_the_other_sum_to_one() -> None:
    a, b = np.random.default_rng(3).normal(size=(2, 3, 10))
    one, other = (
        stats.probability_of_improvement(list(x), list(y), np.random.default_rng(0)) for x, y in ((a, b), (b, a))
    )
    assert one.mean + other.mean == pytest.approx(1)


def test_a_bootstrap_repeats_with_its_seed() -> None:
    scores = list(np.random.default_rng(4).normal(size=(2, 10)))
    first, again = (stats.interquartile_mean(scores, np.random.default_rng(9)) for _ in range(2))
    assert first == again


def test_detectable_mean_equals_statsmodels() -> None:
    for n in (5, 60, 512):
        theirs = TTestPower().solve_power(nobs=n, power=0.8, alpha=0.05)
        assert stats.detectable_mean(n) == pytest.approx(theirs, abs=2e-3)
    assert math.isnan(stats.detectable_mean(1))


def test_detectable_rate_is_found_four_times_in_five_by_mcnemar() -> None:
    n, discordant = 512, 0.3
    difference = stats.detectable_rate(n, discordant)
    rng = np.random.default_rng(5)
    up, down = (discordant + difference) / 2, (discordant - difference) / 2
    counts = rng.multinomial(n, [up, down, 1 - discordant], size=4000)
    found = np.mean([stats.sign_test(int(a), int(b)).p < 0.05 for a, b, _ in counts])
    assert found == pytest.approx(0.8, abs=0.022)  # 3.5 standard errors of the simulation


def test_detectable_rate_falls_with_prompts_and_with_agreement() -> None:
    assert stats.detectable_rate(2000) < stats.detectable_rate(200)
    assert stats.detectable_rate(500, 0.1) < stats.detectable_rate(500, 0.5)
    assert math.isnan(stats.detectable_rate(3, 0.1))


def test_a_setting_far_ahead_is_surely_on_the_frontier_and_a_beaten_one_surely_not() -> None:
    costs = [[1.0, 1.1, 0.9], [2.0, 2.1, 1.9]]
    values = [[0.9, 0.91, 0.92], [0.1, 0.11, 0.12]]
    chances = stats.frontier_probability(costs, values, np.random.default_rng(0), fixed=[(0.0, 0.05)])
    # Three seeds leave heavy tails: never quite 1 and 0.
    assert chances == pytest.approx([1.0, 0.0], abs=0.01)


def test_equals_share_the_frontier_evenly() -> None:
    # Equal settings of equal cost up to noise: the one with less KL stays on it, the other only if its value is higher.
    rng = np.random.default_rng(1)
    seeds = rng.normal(size=(2, 5))
    seeds -= seeds.mean(axis=1, keepdims=True)
    chances = stats.frontier_probability([seeds[0], seeds[0]], [seeds[1], seeds[1]], np.random.default_rng(2), 40_000)
    # Beaten when both coordinates are worse.
    assert chances[0] == pytest.approx(chances[1], abs=0.02)
    assert 0.5 < chances[0] < 1


def test_a_fixed_point_beats_what_lies_behind_it() -> None:
    seeds = [[1.0, 1.2, 0.8, 1.1, 0.9]]
    assert stats.frontier_probability(
        seeds, [[0.5, 0.5, 0.5, 0.5, 0.5]], np.random.default_rng(0), fixed=[(0, 0.6)]
    ) == [0]


def test_a_setting_with_one_seed_has_no_probability_and_beats_none() -> None:
    chances = stats.frontier_probability([[1.0], [2.0, 2.1]], [[0.9], [0.5, 0.6]], np.random.default_rng(0))
    assert math.isnan(chances[0])
    assert chances[1] == 1.0


@pytest.mark.parametrize("n", [3, 5])
def test_the_frontier_s_draws_spread_as_t_intervals_do(n: int) -> None:
    # One setting against a fixed point of no cost: on the frontier when its mean is above the point, whose one-sided
    # probability is Student's.
    seeds = np.random.default_rng(3).normal(0.5, 0.1, n)
    chance = stats.frontier_probability(
        [np.linspace(1, 1.001, n)], [seeds], np.random.default_rng(4), 100_000, [(0, 0.45)]
    )
    t = (seeds.mean() - 0.45) / (seeds.std(ddof=1) / math.sqrt(n))
    assert chance[0] == pytest.approx(peer.t.cdf(t, n - 1), abs=0.01)
