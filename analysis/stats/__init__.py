"""What a comparison rests on, as pure functions of numbers.

Everything is two-sided at 95 % unless said. A quantity that the data cannot carry (one seed, no spread) is NaN, never a
guess. What is drawn comes from a generator that is passed in: the same inputs give the same bytes. scipy.special holds
the distributions: scipy.stats costs a second to import.
"""

from analysis.stats.bootstrap import interquartile_mean, probability_of_improvement
from analysis.stats.curves import first_held, mean_over_range, smooth, value_at
from analysis.stats.frontier import frontier, frontier_probability
from analysis.stats.intervals import Interval, has_spread, ratio_interval, t_interval, wilson
from analysis.stats.items import average_samples, mcnemar, mean_difference, sign_test
from analysis.stats.power import detectable_mean, detectable_rate, minimum_detectable_effect
from analysis.stats.significance import (
    ExactTest,
    TTest,
    holm,
    one_sample_p,
    paired_t,
    permutation_p,
    sign_flip_p,
    welch,
)

__all__ = [
    "ExactTest",
    "Interval",
    "TTest",
    "average_samples",
    "detectable_mean",
    "detectable_rate",
    "first_held",
    "frontier",
    "frontier_probability",
    "has_spread",
    "holm",
    "interquartile_mean",
    "mcnemar",
    "mean_difference",
    "mean_over_range",
    "minimum_detectable_effect",
    "one_sample_p",
    "paired_t",
    "permutation_p",
    "probability_of_improvement",
    "ratio_interval",
    "sign_flip_p",
    "sign_test",
    "smooth",
    "t_interval",
    "value_at",
    "welch",
    "wilson",
]
