"""Finds settings whose training won its reward or its preference pairs and lost the task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis import stats
from analysis.inference import before_after
from analysis.inference.claims import best_of, compare_all
from analysis.measures import Measure, format_number, format_p
from analysis.study import Study, Variant
from workbench.tracking.names import PAIR_ACCURACY, PAIR_MARGIN

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05


def by_pairs(study: Study) -> list[str]:
    """Names the variants whose preference measures rose while exact match fell, in one sentence each, with its
    numbers."""
    exact = study.deciding
    if exact is None or "exact_match" not in exact.column or not study.has(PAIR_ACCURACY):
        return []
    best = best_of(study, exact)
    if best is None:
        return []
    separated = {frozenset((c.first.name, c.second.name)) for c in compare_all(study, exact) if c.separated}
    start = study.start_value(exact.column)
    found = []
    for variant in study.compared(PAIR_ACCURACY):
        if frozenset((variant.name, best.name)) not in separated:
            continue
        pair, margin, score = (
            float(np.mean(study.values(variant, c) or [math.nan])) for c in (PAIR_ACCURACY, PAIR_MARGIN, exact.column)
        )
        best_pair = float(np.mean(study.values(best, PAIR_ACCURACY) or [math.nan]))
        best_margin = float(np.mean(study.values(best, PAIR_MARGIN) or [math.nan]))
        if pair >= best_pair or margin > best_margin:
            below = ", below the start" if score < start else ""
            found.append(
                f"{variant.label}: pair accuracy {pair:.3f} (best setting {best_pair:.3f}) and margin "
                f"{format_number(margin)} nats ({format_number(best_margin)}), yet {exact.label} {score:.3f}{below}"
            )
    return found


@dataclass(frozen=True)
class Drift:
    """Changes of reward and of the held-out measure over one stretch of a setting's training, over its seeds."""

    variant: Variant
    since: str
    reward: stats.Interval
    held_out: stats.Interval
    p: float
    """The larger p of the two: both changes must be told from none."""


def by_reward(study: Study) -> list[str]:
    """Settings whose reward rose while the deciding measure fell, since the start or since half-way, in words.

    Over seeds: one-sample t tests of both changes, Holm over all that are looked at. With one seed only the
    checkpoint's own items speak, against the start.
    """
    measure, found = study.deciding, drifts(study)
    if measure is None or measure.higher_is_better is None or not study.has("reward"):
        return []
    if not found:
        return _one_seed(study)
    texts: dict[str, str] = {}
    for drift, adjusted in zip(found, stats.holm([drift.p for drift in found]), strict=True):
        falls = drift.held_out.mean < 0 if measure.higher_is_better else drift.held_out.mean > 0
        if adjusted < LEVEL and drift.reward.mean > 0 and falls:
            texts[drift.variant.name] = (
                f"Over-optimised: at {drift.variant.label} the reward in training rose by {_amount(drift.reward)} "
                f"{drift.since} while {measure.label} got worse by {_amount(drift.held_out, measure)} (t over "
                f"{drift.reward.n} seeds, Holm over {len(found)}, adjusted {format_p(adjusted)}). The reward is no "
                "longer a sign of the task; the held-out measure decides."
            )
    return list(texts.values())


def drifts(study: Study) -> list[Drift]:
    """How reward and the deciding measure moved together, of each setting that has several seeds."""
    measure = study.deciding
    if measure is None or measure.higher_is_better is None or not study.has("reward"):
        return []
    return [drift for variant in study.variants for drift in _drifts(study, variant, measure)]


def _drifts(study: Study, variant: Variant, measure: Measure) -> list[Drift]:
    runs = [_of_run(study, run) for run in _finished(study, variant)]
    found = []
    for since, share in (("since the start", 0.0), ("in the second half", 0.5)):
        changes = [change for run in runs if (change := _change(run, measure, share)) is not None]
        if len(changes) >= 2:
            reward, held_out = ([float(change[i]) for change in changes] for i in (0, 1))
            # The larger of the two is taken; without spread in one of them there is none.
            p = float(np.maximum(stats.one_sample_p(reward), stats.one_sample_p(held_out)))
            found.append(Drift(variant, since, stats.t_interval(reward), stats.t_interval(held_out), p))
    return found


def _change(run: pd.DataFrame, measure: Measure, share: float) -> tuple[float, float] | None:
    """(change of reward, change of the held-out measure) from that share of the run to its end."""
    if measure.column not in run:
        return None
    evaluated = run[["step", measure.column]].dropna()
    last = run["step"].iloc[-1]
    before = evaluated.iloc[(evaluated["step"] - share * last).abs().argsort()[:1]] if len(evaluated) > 1 else evaluated
    reward = _reward_about(run, 1.0) - _reward_about(run, share)
    if len(evaluated) < 2 or int(before["step"].iloc[0]) == int(evaluated["step"].iloc[-1]) or math.isnan(reward):
        return None
    return reward, float(evaluated[measure.column].iloc[-1] - before[measure.column].iloc[0])


def _reward_about(run: pd.DataFrame, share: float) -> float:
    """Mean reward of the tenth of the rollouts about that share of the steps; a rollout may serve several steps."""
    if "reward" not in run:
        return math.nan
    known = run[["step", "reward"]].dropna()
    if known.empty:
        return math.nan
    size = max(1, round(len(known) / 10))
    nearest = int((known["step"] - share * run["step"].iloc[-1]).abs().to_numpy().argmin())
    begin = min(max(0, nearest - size // 2), len(known) - size)
    return float(known["reward"].iloc[begin : begin + size].mean())


def _one_seed(study: Study) -> list[str]:
    """Checkpoints whose reward rose (Welch, first against last quarter of rollouts) while their greedy exact match fell
    by McNemar's test."""
    found = []
    for change in before_after.changes(study):
        if math.isnan(change.p) or change.change.mean >= 0 or change.p >= LEVEL:
            continue
        (run,) = (_of_run(study, name) for name in _finished(study, change.variant)[:1])
        rewards = list(run["reward"].dropna()) if "reward" in run else []
        quarter = len(rewards) // 4
        rise = stats.welch(rewards[len(rewards) - quarter :], rewards[:quarter])
        if rise.difference > 0 and rise.p < LEVEL:
            found.append(
                f"Over-optimised, in this checkpoint of {change.variant.label}: the reward in training rose by "
                f"{format_number(rise.difference)} from the first quarter of its rollouts to the last "
                f"({format_p(rise.p)}) while {change.measure.label} fell ({change.how})."
            )
    return found


def _amount(interval: stats.Interval, measure: Measure | None = None) -> str:
    """A change without its sign, with its 95 % limits."""
    ends = sorted(interval.mean / abs(interval.mean or 1.0) * x for x in (interval.low, interval.high))
    text = measure.text if measure else format_number
    mean, low, high = (text(value) for value in (abs(interval.mean), *ends))
    return f"{mean} ({low} to {high})"


def _finished(study: Study, variant: Variant) -> list[str]:
    rows = study.finals[(study.finals["variant"] == variant.name) & study.finals["finished"]]
    return list(rows.sort_values("seed")["run"])


def _of_run(study: Study, run: str) -> pd.DataFrame:
    table = study.loaded.metrics
    return table[table["run"] == run].sort_values("step", kind="stable")


def reward_in_words(study: Study) -> list[str]:
    """What the reward did in training, a sentence a setting: for runs that have no held-out measure."""
    found = []
    for variant in study.variants:
        runs = [_of_run(study, run) for run in _finished(study, variant)]
        ends = [(_reward_about(run, 0.0), _reward_about(run, 1.0)) for run in runs]
        known = [pair for pair in ends if not any(math.isnan(value) for value in pair)]
        if known:
            first, last = (format_number(float(np.mean(values))) for values in zip(*known, strict=True))
            found.append(
                f"{variant.label}: reward in training {first} over the first tenth of the steps, {last} over the last. "
                "It is what was optimised, on training's own prompts, and ranks nothing."
            )
    return found
