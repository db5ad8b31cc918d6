"""Online runs: what their rollouts were like, where the time went, and how fast they sampled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.measures import format_number
from analysis.report.document import Cell, Figure, Prose, Section, Table
from analysis.report.plots import Canvas
from analysis.report.sections.cells import setting
from analysis.study import Study, Variant

if TYPE_CHECKING:
    import pandas as pd

SHOWN = (
    *("groups_with_signal", "completions/mean_length", "completions/clipped_ratio", "entropy", "objective/entropy"),
    *("kl", "objective/kl", "clip_ratio/region_mean", "policy/clipfrac_avg", "loss/value_avg"),
)
MAX_PANELS = 9
PHASES = ("sample", "reward", "reference", "update")
MEANS = "Means over finished seeds. They depend on the machine and on what ran beside it."


def section(study: Study, canvas: Canvas) -> Section | None:
    """Shows what was sampled to learn from; None where nothing was."""
    if not study.has("reward"):
        return None
    found = Section("Rollouts", [])
    if (drawn := figure(study, canvas)).panels:
        found.blocks.append(drawn)
    if (spent := phases(study)) is not None:
        about = (
            "Where the time went: seconds of training time in sampling rollouts, computing rewards, the reference's "
            "log-probabilities, and the updates; below each its share."
        )
        found.blocks += [Prose(about), spent]
    if (rates := throughput(study)) is not None:
        found.blocks.append(rates)
    return found if found.blocks else None


def figure(study: Study, canvas: Canvas) -> Figure:
    names = sorted(
        c for c in map(str, study.finals) if c.startswith("rewards/") and c.endswith("/mean") and study.has(c)
    )
    columns = [*(names if len(names) > 1 else []), *(c for c in SHOWN if study.has(c))][:MAX_PANELS]
    see = (
        "Whether there was something to learn from: a group whose completions all earn the same teaches nothing. "
        "Entropy that falls towards 0 ends exploration; a length that grows to the limit and rollouts that are cut off "
        "are rewarded for what they did not say."
    )
    how = (
        "Training measures: faint every run, bold the mean over a setting's seeds, smoothed over a tenth of the "
        "steps. Groups with signal: 1 less frac_reward_zero_std. KL in training is the trainer's own "
        "estimate and not the held-out KL from the start."
    )
    return Figure(canvas.learning(columns), see, how, len(study.variants) > 1)


def phases(study: Study) -> Table | None:
    """Seconds by phase and their shares of the training time, means over finished runs; None without online runs."""
    if not study.has("reward"):
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
    return Table("phases", heads, rows, flat, label="Seconds by phase", caption=MEANS) if rows else None


def _share_cell(value: float, total: float) -> Cell:
    lines = () if math.isnan(value) else (f"{value / total:.0%}",)
    return Cell(format_number(value, "seconds"), value, lines)


def throughput(study: Study) -> Table | None:
    """Tokens and completions a second of training time, means over finished runs; None without online runs."""
    if not study.has("reward"):
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
    label = "Tokens and completions a second"
    return Table("throughput", heads, rows, flat, label=label, caption=MEANS) if rows else None


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


def _mean(study: Study, variant: Variant, column: str) -> float:
    values = study.values(variant, column)
    return float(np.mean(values)) if values else math.nan
