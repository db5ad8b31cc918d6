"""Online runs: where their time went, how fast they sampled, and whether they won their reward instead of the task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import before_after, stats
from analysis.measures import Measure, format_number, format_p, join
from analysis.study import Study, Variant
from analysis.tables import Cell, Table, setting

if TYPE_CHECKING:
    import pandas as pd

PHASES = ("sample", "reward", "reference", "update")
LEVEL = 0.05


def is_online(study: Study) -> bool:
    """Whether some run trained on its own completions."""
    return study.has("reward")


def phases(study: Study) -> Table | None:
    """Seconds by phase and their shares of the training time, means over finished runs; None without online runs."""
    if not is_online(study):
        return None
    rows, flat = [], []
    for variant in study.variants:
        seconds = {phase: _mean(study, variant, f"time/{phase}_seconds") for phase in PHASES}
        total = _mean(study, variant, "time/seconds")
        if all(math.isnan(value) for value in seconds.values()) or not total > 0:
            continue
        known = sum(value for value in seconds.values() if not math.isnan(value))
        seconds["other"] = max(0.0, total - known)
        cells = [_share_cell(value, total) for value in seconds.values()]
        rows.append([setting(variant), *cells, Cell(format_number(total, "seconds"), total)])
        flat.append({"variant": variant.name, **seconds, "training": total})
    heads = [("setting", ""), *((phase, "s") for phase in (*PHASES, "other")), ("training time", "s")]
    return Table("phases", heads, rows, plain=flat) if rows else None


def _share_cell(value: float, total: float) -> Cell:
    lines = () if math.isnan(value) else (f"{value / total:.0%}",)
    return Cell(format_number(value, "seconds"), value, lines)


def throughput(study: Study) -> Table | None:
    """Tokens and completions a second of training time, means over finished runs; None without online runs."""
    if not is_online(study):
        return None
    rows, flat = [], []
    for variant in study.variants:
        own = study.finals[(study.finals["variant"] == variant.name) & study.finals["finished"]]
        if own.empty:
            continue
        numbers = _rates(study, own)
        rows.append([setting(variant), *(Cell(format_number(value, "count"), value) for value in numbers.values())])
        flat.append({"variant": variant.name, **numbers})
    heads = [
        ("setting", ""), ("generated tokens", "a second"), ("while sampling", "generated tokens a second"),
        ("trained tokens", "a second"), ("completions learned from", "a second"),
    ]  # fmt: skip
    return Table("throughput", heads, rows, plain=flat) if rows else None


def _rates(study: Study, own: pd.DataFrame) -> dict[str, float]:
    """The mean rates of these runs; NaN where a run lacks a part of one."""

    def rate(amount: Any, seconds: str) -> float:
        if seconds not in own:
            return math.nan
        rates = (amount / own[seconds]).replace([np.inf, -np.inf], math.nan)
        return float(rates.mean())

    empty = own["step"] * math.nan
    generated, trained = (own.get(f"cost/{name}_tokens", empty) for name in ("generated", "trained"))
    completions = own["run"].map(lambda run: num_completions(study, run))
    return {
        "generated_tokens_per_second": rate(generated, "time/seconds"),
        "generated_tokens_per_sampling_second": rate(generated, "time/sample_seconds"),
        "trained_tokens_per_second": rate(trained, "time/seconds"),
        "completions_per_second": rate(completions, "time/seconds"),
    }


def num_completions(study: Study, run: str) -> float:
    """Completions that a run sampled to learn from: rollouts times prompts times group_size; NaN where it has none."""
    table = study.loaded.metrics
    given = study.loaded.records[run]["definition"].get("hyperparameters") or {}
    sizes = [size for name in ("batch_prompts", "group_size") if isinstance(size := given.get(name), int)]
    if "reward" not in table or len(sizes) < 2:
        return math.nan
    rollouts = int(table.loc[table["run"] == run, "reward"].notna().sum())
    return float(rollouts * math.prod(sizes)) if rollouts else math.nan


def _group_size(study: Study, run: str) -> int | None:
    size = (study.loaded.records[run]["definition"].get("hyperparameters") or {}).get("group_size")
    return size if isinstance(size, int) else None


def repeats(study: Study) -> str:
    """How often a prompt counts, in words; empty without online runs."""
    found: dict[int, list[str]] = {}
    for variant in study.variants:
        runs = study.loaded.runs[study.loaded.runs["variant"] == variant.name]["run"]
        if not study.values(variant, "reward", finished=False):
            continue
        for run in runs[:1]:
            size = _group_size(study, run)
            if size is not None:
                found.setdefault(size, []).append(variant.label)
    parts = [f"{size} times by {join(labels)}" for size, labels in found.items()]
    return f"Each prompt of a rollout was completed {join(parts)}." if parts else ""


def in_words(study: Study) -> list[str]:
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


@dataclass(frozen=True)
class Drift:
    """Changes of reward and of the held-out measure over one stretch of a setting's training, over its seeds."""

    variant: Variant
    since: str
    reward: stats.Interval
    held_out: stats.Interval
    p: float
    """The larger p of the two: both changes must be told from none."""


def over_optimisation(study: Study) -> list[str]:
    """Settings whose reward rose while the deciding measure fell, since the start or since half-way, in words.

    Over seeds: one-sample t tests of both changes, Holm over all that are looked at. With one seed only the
    checkpoint's own items speak, against the start.
    """
    measure = study.deciding
    if measure is None or measure.higher_is_better is None or not is_online(study):
        return []
    found = [drift for variant in study.variants for drift in _drifts(study, variant, measure)]
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


def _drifts(study: Study, variant: Variant, measure: Measure) -> list[Drift]:
    runs = [_of_run(study, run) for run in _finished(study, variant)]
    found = []
    for since, share in (("since the start", 0.0), ("in the second half", 0.5)):
        changes = [change for run in runs if (change := _change(run, measure, share)) is not None]
        if len(changes) >= 2:
            reward, held_out = ([float(change[i]) for change in changes] for i in (0, 1))
            p = max(stats.one_sample_p(reward), stats.one_sample_p(held_out))
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


def _mean(study: Study, variant: Variant, column: str) -> float:
    values = study.values(variant, column)
    return float(np.mean(values)) if values else math.nan
