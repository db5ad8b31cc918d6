"""Every statistic agrees with a number worked by hand and with scipy or statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as peer
from statsmodels.stats.contingency_tables import mcnemar as peer_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.proportion import proportion_confint

from analysis import stats


def test_t_interval_by_hand() -> None:
    # 1, 2, 3: mean 2, sd 1, t(2, .975) = 4.302653, half = 4.302653 / sqrt(3)
    interval = stats.t_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.n) == (2.0, 3)
    assert interval.high - 2.0 == pytest.approx(2.484138, abs=1e-6)
    assert interval.low == pytest.approx(2.0 - 2.484138, abs=1e-6)


def test_t_interval_equals_scipy() -> None:
    values = np.random.default_rng(0).normal(size=7)
    low, high = peer.t.interval(0.9, 6, values.mean(), peer.sem(values))
    ours = stats.t_interval(values, level=0.9)
    assert (ours.low, ours.high) == (pytest.approx(low), pytest.approx(high))


def test_ratio_interval_by_hand() -> None:
    # 6 nats in 3 tokens, 2 in 1: ratio 2, no residual; 3 in 3, 5 in 1: residuals -3 and 3, error sqrt(18 * 2) / 4 = 1.5
    exact = stats.ratio_interval([6.0, 2.0], [3, 1])
    assert (exact.mean, exact.n, exact.is_constant) == (2.0, 2, True)
    assert math.isnan(exact.low)
    interval = stats.ratio_interval([3.0, 5.0], [3, 1])
    assert (interval.mean, interval.high - 2) == (2.0, pytest.approx(1.5 * 12.706205, abs=1e-5))
    assert math.isnan(stats.ratio_interval([3.0], [2]).low)


@pytest.mark.parametrize(
    "interval",
    [
        stats.ratio_interval([1.0, 2.0], [0, 0]),
        stats.ratio_interval([0.0], [0]),
        stats.ratio_interval([1.0, math.nan], [1, 2]),
        stats.ratio_interval([1.0, 2.0], [1, math.inf]),
        stats.wilson(math.nan, 5),
    ],
)
def test_what_has_no_size_or_no_number_has_no_ratio_and_no_interval(interval) -> None:
    assert [math.isnan(value) for value in (interval.mean, interval.low, interval.high)] == [True] * 3


def test_every_sum_of_a_ratio_needs_its_size() -> None:
    with pytest.raises(ValueError, match=r"needs its size, got 2 and 1"):
        stats.ratio_interval([1.0, 2.0], [3])


def test_ratio_of_equal_sizes_is_the_mean_with_its_t_interval() -> None:
    values = np.random.default_rng(3).normal(size=9)
    ratio, mean = stats.ratio_interval(4 * values, [4] * 9), stats.t_interval(values)
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((mean.mean, mean.low, mean.high))


def test_one_seed_has_a_mean_and_no_interval() -> None:
    interval = stats.t_interval([0.7])
    assert interval.mean == 0.7
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_t_interval_covers_95_percent_at_three_seeds() -> None:
    draws = np.random.default_rng(1).normal(size=(4000, 3))
    covered = np.mean([(i := stats.t_interval(row)).low <= 0 <= i.high for row in draws])
    assert 0.94 < covered < 0.96


def test_welch_by_hand() -> None:
    # means 2 and 5, variances 1 and 4 over 3: t = -3 / sqrt(5/3), df = (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 50/17
    test = stats.welch([1.0, 2.0, 3.0], [3.0, 5.0, 7.0])
    assert test.difference == -3.0
    assert test.t == pytest.approx(-3 / math.sqrt(5 / 3))
    assert test.df == pytest.approx(50 / 17)


def test_welch_equals_scipy() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, 4), rng.normal(1, 3, 6)
    theirs = peer.ttest_ind(a, b, equal_var=False)
    ours = stats.welch(a, b)
    assert (ours.t, ours.p, ours.df) == (
        pytest.approx(theirs.statistic),
        pytest.approx(theirs.pvalue),
        pytest.approx(theirs.df),
    )
    interval = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


@pytest.mark.parametrize(("first", "second"), [([0.5], [0.1, 0.2]), ([0.5, 0.5], [0.2, 0.2]), ([], [0.1, 0.2])])
def test_welch_without_spread_gives_no_p(first: list[float], second: list[float]) -> None:
    assert math.isnan(stats.welch(first, second).p)


def test_welch_on_seed_means_calls_few_equal_methods_different() -> None:
    rng = np.random.default_rng(3)
    wrong = np.mean([stats.welch(*rng.normal(size=(2, 3))).p < 0.05 for _ in range(4000)])
    assert wrong <= 0.05


def test_one_sample_p_equals_scipy() -> None:
    values = [0.1, 0.3, 0.2, 0.5]
    assert stats.one_sample_p(values, 0.05) == pytest.approx(peer.ttest_1samp(values, 0.05).pvalue)
    assert math.isnan(stats.one_sample_p([0.2, 0.2, 0.2]))


def test_holm_by_hand() -> None:
    # sorted .01 .02 .04 times 3, 2, 1 = .03 .04 .04
    assert stats.holm([0.02, 0.01, 0.04]) == pytest.approx([0.04, 0.03, 0.04])


def test_holm_equals_statsmodels() -> None:
    p = np.random.default_rng(4).uniform(0, 0.2, 10)
    assert stats.holm(list(p)) == pytest.approx(list(multipletests(p, method="holm")[1]))


def test_holm_counts_an_untestable_comparison_and_leaves_it_untested() -> None:
    adjusted = stats.holm([0.01, math.nan, 0.02])
    assert adjusted[0] == pytest.approx(0.03)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(0.04)


def test_wilson_by_hand_and_equals_statsmodels() -> None:
    # 0 of 10: low 0, high = z^2 / (10 + z^2) = 3.841459 / 13.841459
    assert stats.wilson(0, 10).high == pytest.approx(3.841459 / 13.841459, abs=1e-6)
    assert stats.wilson(0, 10).low == 0.0
    low, high = proportion_confint(79, 126, method="wilson")
    ours = stats.wilson(79, 126)
    assert (ours.low, ours.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(("n", "floor"), [(3, 0.10), (4, 0.029), (5, 0.0079)])
def test_permutation_floor_is_reached_by_separated_groups(n: int, floor: float) -> None:
    exact = stats.permutation_p(range(n), range(10, 10 + n))
    assert exact.p == exact.floor == pytest.approx(floor, rel=0.02)


def test_permutation_equals_scipy() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=4), rng.normal(0.7, size=5)
    theirs = peer.permutation_test((a, b), lambda x, y: abs(x.mean() - y.mean()), alternative="greater")
    assert stats.permutation_p(a, b).p == pytest.approx(theirs.pvalue)


def test_equal_groups_give_permutation_p_one() -> None:
    assert stats.permutation_p([0.1, 0.1, 0.1], [0.1, 0.1, 0.1]).p == 1.0


def test_many_arrangements_need_a_generator_and_repeat_with_its_seed() -> None:
    a, b = np.arange(12.0), np.arange(12.0) + 1.5
    with pytest.raises(ValueError, match="generator"):
        stats.permutation_p(a, b)
    first, second = (stats.permutation_p(a, b, np.random.default_rng(6)).p for _ in range(2))
    assert first == second
    assert first == pytest.approx(peer.ttest_ind(a, b).pvalue, abs=0.03)


@pytest.mark.parametrize(("n", "floor"), [(3, 0.25), (4, 0.125), (5, 0.0625)])
def test_sign_flip_floor(n: int, floor: float) -> None:
    exact = stats.sign_flip_p([0.1 * (i + 1) for i in range(n)])
    assert exact.p == exact.floor == floor


def test_sign_flip_by_hand() -> None:
    # -1 observed; |sum| over the flips of sign: 7 7 5 5 3 3 1 1, all of them at least 1
    assert stats.sign_flip_p([1.0, 2.0, -4.0]).p == 1.0
    # 5 observed; |sum| over the flips: 7 7 5 5 3 3 1 1, of which 4 of 8 are at least 5
    assert stats.sign_flip_p([-1.0, 2.0, 4.0]).p == 0.5


@pytest.mark.parametrize(("n", "effect"), [(2, 10.4), (3, 3.51), (4, 2.51), (5, 2.09), (10, 1.33)])
def test_minimum_detectable_effect_is_that_of_the_agreement(n: int, effect: float) -> None:
    assert stats.minimum_detectable_effect(n) == pytest.approx(effect, abs=0.01)


def test_with_many_seeds_welch_finds_what_the_pooled_test_finds() -> None:
    theirs = TTestIndPower().solve_power(nobs1=100, power=0.8, alpha=0.05)
    assert stats.minimum_detectable_effect(100) == pytest.approx(theirs, abs=1e-3)


@pytest.mark.parametrize(("n", "pairs"), [(2, 1), (2, 3), (3, 1), (3, 21), (5, 21), (10, 3)])
def test_minimum_detectable_effect_is_found_four_times_in_five_by_the_report_s_own_test(n: int, pairs: int) -> None:
    effect, rng = stats.minimum_detectable_effect(n, alpha=0.05 / pairs), np.random.default_rng([n, pairs])
    a, b = rng.standard_normal((2, 40_000, n))
    p = peer.ttest_ind(a + effect, b, axis=1, equal_var=False).pvalue
    assert p[:3] == pytest.approx([stats.welch(a[k] + effect, b[k]).p for k in range(3)])
    assert (p < 0.05 / pairs).mean() == pytest.approx(0.8, abs=0.007)  # 3.5 standard errors of the simulation


def test_seven_variants_of_three_seeds_find_no_less_than_five_deviations() -> None:
    assert stats.minimum_detectable_effect(3, alpha=0.05 / 21) == pytest.approx(10.75, abs=0.05)


def test_permutations_and_flips_of_what_is_not_finite_have_no_p() -> None:
    for value in (math.nan, math.inf):
        assert math.isnan(stats.permutation_p([0.1, value], [0.2, 0.3]).p)
        assert math.isnan(stats.sign_flip_p([0.1, value, 0.2]).p)
        assert math.isnan(stats.sign_flip_p([0.1, value, 0.2], clusters=["a", "a", "b"]).p)
        assert math.isnan(stats.welch([0.1, value], [0.2, 0.3]).p)
        assert math.isnan(stats.paired_t([0.1, value], [0.2, 0.3]).p)
        assert math.isnan(stats.one_sample_p([0.1, value]))
        assert math.isnan(stats.t_interval([0.1, value]).low)
        assert math.isnan(stats.mean_difference([0.1, value])[1])


@pytest.mark.parametrize("unit", [1e-14, 1e-6, 1.0, 1e9])
def test_an_exact_p_depends_on_no_unit(unit: float) -> None:
    first, second = [unit * x for x in (1.0, 2.0, 3.0)], [unit * x for x in (4.0, 5.0, 6.0)]
    assert stats.permutation_p(first, second).p == pytest.approx(0.1)
    assert stats.sign_flip_p([unit * x for x in (1.0, 2.0, 3.0)]).p == 0.25
    assert stats.welch(first, second).p == pytest.approx(stats.welch([1, 2, 3], [4, 5, 6]).p)


def test_exact_p_of_small_differences_on_a_large_value_is_theirs() -> None:
    assert stats.permutation_p([1e6, 1e6 + 1e-3], [1e6 + 2e-3, 1e6 + 3e-3]).p == pytest.approx(1 / 3)


@pytest.mark.parametrize("values", [[0.9, 0.9, 0.9], [0.1 + 0.2, 0.3, 0.3], [0.0, 0.0]])
def test_values_without_spread_have_no_interval_and_no_p(values: list[float]) -> None:
    interval = stats.t_interval(values)
    assert interval.is_constant
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert math.isnan(stats.one_sample_p(values, null=-1.0))
    assert math.isnan(stats.welch(values, [value + 1 for value in values]).p)
    assert math.isnan(stats.paired_t(values, [0.0] * len(values)).p)
    assert stats.mean_difference(values)[0].is_constant
    assert stats.permutation_p(values, values).p == 1.0


def test_minimum_detectable_effect_of_one_seed_is_unknown() -> None:
    assert math.isnan(stats.minimum_detectable_effect(1))


def test_mcnemar_by_hand_and_equals_statsmodels() -> None:
    # 1 against 5 discordant: 2 (1 + 6) / 64
    first = [True] * 10 + [True] + [False] * 5
    second = [True] * 10 + [False] + [True] * 5
    only_first, only_second, exact = stats.mcnemar(first, second)
    assert (only_first, only_second, exact.p) == (1, 5, pytest.approx(14 / 64))
    assert exact.p == pytest.approx(peer_mcnemar([[10, 1], [5, 0]], exact=True).pvalue)


@pytest.mark.parametrize("value", [math.nan, 0.5, 2.0, math.inf])
def test_mcnemar_refuses_what_is_neither_right_nor_wrong(value: float) -> None:
    for sides in (([1.0, value], [1.0, 0.0]), ([1.0, 0.0], [1.0, value])):
        with pytest.raises(ValueError, match=rf"right or wrong \(1 or 0\) of every item, got {value:g}"):
            stats.mcnemar(*sides)


def test_sign_test_equals_scipy_and_never_exceeds_one() -> None:
    assert stats.sign_test(79, 47).p == pytest.approx(peer.binomtest(79, 126).pvalue)
    assert stats.sign_test(4, 4).p == 1.0
    assert stats.sign_test(0, 0).p == 1.0


def test_frontier_by_hand() -> None:
    # (3, .5) is beaten by (2, .6); the NaN is nowhere; rising cost
    assert stats.frontier([2.0, 0.0, 3.0, 5.0, math.nan], [0.6, 0.2, 0.5, 0.9, 1.0]) == [1, 0, 3]


def test_frontier_keeps_equal_points_and_drops_what_they_beat() -> None:
    assert stats.frontier([1.0, 1.0, 1.0], [0.5, 0.5, 0.4]) == [0, 1]


def test_smooth_keeps_a_constant_and_span_one_keeps_everything() -> None:
    assert list(stats.smooth([2.0, 2.0, 2.0], 5)) == pytest.approx([2.0, 2.0, 2.0])
    assert list(stats.smooth([1.0, 5.0, 2.0], 1)) == [1.0, 5.0, 2.0]


def test_smooth_by_hand() -> None:
    # span 3 keeps half: 1, then (.25 * 1 + .5 * 4) / .75 = 3
    assert list(stats.smooth([1.0, 4.0], 3)) == pytest.approx([1.0, 3.0])
