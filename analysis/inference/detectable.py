"""Says before a run how large a difference must be for this many seeds and prompts to find it."""

from __future__ import annotations

import math
from pathlib import Path

from analysis import stats
from analysis.measures import Measure, format_number
from workbench.tracking.words import plural

SOME_FLIPS = 0.2
"""A share of prompts on which two checkpoints differ, beside the most there can be, one half."""


def in_words(*, seeds: int, variants: int, prompts: int | None, folder: Path) -> list[str]:
    """What a plan of so many seeds a variant, and held-out prompts, can tell apart four times in five.

    folder: the experiment's, whose finished runs of earlier, if any, say how much seeds scatter in the measure's unit.
    """
    lines = [_over_seeds(seeds, variants, folder)] if variants > 1 else []
    pairs = max(1, variants * (variants - 1) // 2) if seeds == 1 else 1  # only with one seed are all compared so
    if prompts:
        least, most = (stats.detectable_rate(prompts, share, alpha=0.05 / pairs) for share in (SOME_FLIPS, 0.5))
        if not math.isnan(most):
            few = "" if math.isnan(least) else f"{least:.3f} if they differ on {SOME_FLIPS:.0%} of the prompts, "
            lines.append(
                f"two checkpoints on {plural(prompts, 'prompt')}: {few}{most:.3f} if on half, in exact match "
                f"(McNemar's exact test{_first_of(pairs)}, which says nothing about methods)"
            )
    return lines


def _over_seeds(seeds: int, variants: int, folder: Path) -> str:
    pairs = variants * (variants - 1) // 2
    effect = stats.minimum_detectable_effect(seeds, alpha=0.05 / pairs)
    if math.isnan(effect):
        return "with one seed a variant the report can compare checkpoints, and claims nothing about methods"
    known = seed_spread(folder)
    text = f"two variants of {seeds} seeds: {effect:.2f} seed standard deviations between their means"
    if known:
        text += f" ({_amount(effect, *known)})"
    text += f", by Welch's test{_first_of(pairs)}"
    if known:
        measure, spread = known
        text += f". Earlier runs scatter by {format_number(spread)} in {measure.label}"
    return text


def _first_of(pairs: int) -> str:
    return f" at the level of the first claim that Holm makes of {pairs} pairs" if pairs > 1 else ""


def _amount(effect: float, measure: Measure, spread: float) -> str:
    return f"{measure.text(effect * spread)} of {measure.label}"


def seed_spread(folder: Path) -> tuple[Measure, float] | None:
    """(deciding measure, pooled seed standard deviation) of an experiment's finished runs; None without two alike."""
    import numpy as np

    from analysis.study import open_study

    if not (folder / "plan.json").is_file():
        return None
    study = open_study(folder)
    if study.deciding is None:
        return None
    groups = [study.values(variant, study.deciding.column) for variant in study.variants]
    spreads = [np.var(values, ddof=1) for values in groups if len(values) > 1]
    spread = math.sqrt(float(np.mean(spreads))) if spreads else 0.0
    return (study.deciding, spread) if spread > 0 else None
