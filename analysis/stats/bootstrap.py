"""Aggregates over runs and tasks by resampling runs within tasks (Agarwal et al., arXiv 2108.13264)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from analysis.stats.intervals import Interval

MIN_RUNS = 10
"""Runs a task below which a bootstrapped interval is refused: with 3 runs of 4 tasks one of 95 % covers 79 %."""


def interquartile_mean(
    tasks: Sequence[Sequence[float]], generator: np.random.Generator, draws: int = 5_000, level: float = 0.95
) -> Interval:
    """The mean of the middle half of all scores of runs x tasks, with a stratified bootstrap interval.

    tasks[j] holds the scores of task j's runs, on one scale. The interval is NaN below 10 runs a task. n: scores.
    """
    scores = [np.asarray(task, dtype=float) for task in tasks]
    pooled = np.concatenate(scores) if scores else np.array([])
    if not len(pooled):
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(_trimmed(pooled[None])[0])
    if min(map(len, scores)) < MIN_RUNS:
        return Interval(mean, math.nan, math.nan, len(pooled))
    drawn = _trimmed(np.concatenate([_resample(task, generator, draws) for task in scores], axis=1))
    low, high = np.quantile(drawn, (0.5 - level / 2, 0.5 + level / 2))
    return Interval(mean, float(low), float(high), len(pooled))


def probability_of_improvement(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    generator: np.random.Generator,
    draws: int = 5_000,
    level: float = 0.95,
) -> Interval:
    """Mean over tasks of the probability that a run of first beats a run of second, ties one half (Mann and Whitney).

    first[j] and second[j] hold the scores of task j's runs. The interval is a stratified bootstrap's, NaN below 10 runs
    a task on either side. n: tasks.
    """
    if len(first) != len(second):
        raise ValueError(f"both sides need the same tasks, got {len(first)} and {len(second)}")
    if not first:
        return Interval(math.nan, math.nan, math.nan, 0)
    pairs = [(np.asarray(a, dtype=float), np.asarray(b, dtype=float)) for a, b in zip(first, second, strict=True)]
    mean = float(np.mean([_beats(a[None], b[None])[0] for a, b in pairs]))
    if min(len(side) for pair in pairs for side in pair) < MIN_RUNS:
        return Interval(mean, math.nan, math.nan, len(pairs))
    drawn = np.mean([_beats(_resample(a, generator, draws), _resample(b, generator, draws)) for a, b in pairs], axis=0)
    low, high = np.quantile(drawn, (0.5 - level / 2, 0.5 + level / 2))
    return Interval(mean, float(low), float(high), len(pairs))


def _resample(scores: np.ndarray, generator: np.random.Generator, draws: int) -> np.ndarray:
    return scores[generator.integers(len(scores), size=(draws, len(scores)))]


def _trimmed(scores: np.ndarray) -> np.ndarray:
    """Row by row the mean without the lowest and the highest quarter (as many whole scores as fit in one)."""
    cut = scores.shape[1] // 4
    return np.sort(scores, axis=1)[:, cut : scores.shape[1] - cut].mean(axis=1)


def _beats(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Row by row the share of pairs in which first is higher, ties one half."""
    ordered = np.sort(second, axis=1)
    rows = zip(first, ordered, strict=True)
    below = np.array([np.searchsorted(b, a, "left") + np.searchsorted(b, a, "right") for a, b in rows])
    return below.mean(axis=1) / (2 * second.shape[1])
