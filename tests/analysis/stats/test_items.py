"""Two checkpoints on the same items: laws, numbers by hand, statsmodels, and what clusters do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as peer

from analysis import stats


def test_samples_of_an_item_are_one_number() -> None:
    items, means = stats.average_samples(["b", "a", "b", "a", "c"], [1, 0, 0, 1, 1])
    assert items == ["b", "a", "c"]
    assert list(means) == [0.5, 0.5, 1.0]


def test_mean_difference_without_clusters_is_the_one_sample_t_test() -> None:
    differences = np.random.default_rng(0).normal(0.2, 1, 40)
    interval, p = stats.mean_difference(differences)
    theirs = peer.ttest_1samp(differences, 0)
    limits = theirs.confidence_interval(0.95)
    assert (interval.low, interval.high, p) == pytest.approx((limits.low, limits.high, theirs.pvalue))


def test_clustered_error_by_hand() -> None:
    # 1, 1 | 0, 2 | -1, 3: mean 1; sums of residuals 0, 0, 0: no spread between clusters.
    # 1, 1 | 0, 0 | 2, 2: sums of residuals 0, -2, 2: sqrt(8) / 6 x sqrt(3 / 2) = 0.577350; t(2, .975) = 4.302653
    assert math.isnan(stats.mean_difference([1, 1, 0, 2, -1, 3], list("aabbcc"))[1])
    interval, p = stats.mean_difference([1, 1, 0, 0, 2, 2], list("aabbcc"))
    assert (interval.mean, interval.n) == (1.0, 3)
    assert interval.high - 1 == pytest.approx(0.57735027 * 4.30265273)
    assert p == pytest.approx(2 * peer.t.sf(1 / 0.57735027, 2))


def test_clustered_error_equals_statsmodels() -> None:
    rng = np.random.default_rng(1)
    clusters = rng.integers(0, 12, 80)
    differences = rng.normal(0.1, 1, 80) + rng.normal(0, 1, 12)[clusters]
    fit = sm.OLS(differences, np.ones(80)).fit()
    # statsmodels corrects by C / (C - 1) x (n - 1) / (n - k); with one regressor the second factor is 1.
    robust = fit.get_robustcov_results("cluster", groups=clusters, use_correction=True)
    interval, p = stats.mean_difference(differences, list(clusters))
    assert p == pytest.approx(float(robust.pvalues[0]))
    assert (interval.low, interval.high) == pytest.approx(tuple(robust.conf_int()[0]))


def test_every_item_its_own_cluster_is_no_cluster() -> None:
    differences = np.random.default_rng(2).normal(size=30)
    assert stats.mean_difference(differences, range(30)) == stats.mean_difference(differences)


def test_order_and_names_of_clusters_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    differences, clusters = rng.normal(size=30), rng.integers(0, 6, 30)
    shuffled = rng.permutation(30)
    again = stats.mean_difference(differences[shuffled], [f"passage {c}" for c in clusters[shuffled]])
    interval, p = stats.mean_difference(differences, list(clusters))
    assert (again[0].low, again[1]) == pytest.approx((interval.low, p))


@pytest.mark.parametrize("differences", [[], [0.3], [0.0, 0.0, 0.0]])
def test_nothing_to_judge_by_gives_no_p(differences: list[float]) -> None:
    interval, p = stats.mean_difference(differences)
    assert math.isnan(p)
    assert math.isnan(interval.low)


def test_clusters_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="cluster"):
        stats.mean_difference([0.1, 0.2], ["a"])
    with pytest.raises(ValueError, match="cluster"):
        stats.sign_flip_p([0.1, 0.2], clusters=["a"])


def test_sign_flips_take_whole_clusters() -> None:
    # Cluster sums 3, -1: |2| observed; flips give 2, 4, 4, 2: all at least 2. Alone 1, 2, -1: 2 or more in 6 of 8.
    assert stats.sign_flip_p([1.0, 2.0, -1.0], clusters=["a", "a", "b"]).p == 1.0
    assert stats.sign_flip_p([1.0, 2.0, -1.0], clusters=["a", "a", "b"]).floor == 0.5
    assert stats.sign_flip_p([1.0, 2.0, -1.0]).p == pytest.approx(peer_flips([1.0, 2.0, -1.0]))


def peer_flips(differences: list[float]) -> float:
    """scipy's exact paired permutation test."""
    test = peer.permutation_test(
        (differences,), lambda x: abs(np.sum(x)), permutation_type="samples", alternative="greater"
    )
    return float(test.pvalue)


def test_sign_flips_equal_scipy() -> None:
    differences = list(np.random.default_rng(4).normal(0.4, 1, 9))
    assert stats.sign_flip_p(differences).p == pytest.approx(peer_flips(differences))


def test_many_sign_flips_are_drawn_with_a_generator_and_repeat_with_its_seed() -> None:
    differences = np.random.default_rng(5).normal(0.15, 1, 200)
    with pytest.raises(ValueError, match="generator"):
        stats.sign_flip_p(differences)
    first, second = (stats.sign_flip_p(differences, np.random.default_rng(6)) for _ in range(2))
    assert first == second
    assert first.floor == 1 / 10_001
    assert first.p == pytest.approx(peer.ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_a_drawn_p_is_never_zero() -> None:
    far = stats.sign_flip_p(np.ones(60), np.random.default_rng(7), draws=999)
    assert far.p == far.floor == 1 / 1000
