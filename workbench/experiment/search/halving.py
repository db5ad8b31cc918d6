"""Which trials go on to the next rung: successive halving (Jamieson 2016) and ASHA (Li 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from workbench.experiment.search.journal import Trial

Ended = Mapping[str, float]
"""What each trial gave by its name, more being better; NaN: it failed."""


def best_of(trials: Sequence[Trial], ended: Ended) -> list[Trial]:
    """The trials that gave a value, the best first; of equals the first that was begun."""
    able = [trial for trial in trials if not math.isnan(ended.get(trial.name, math.nan))]
    return sorted(able, key=lambda trial: -ended[trial.name])


def promoted_together(rungs: Sequence[Sequence[Trial]], ended: Ended, factor: int, top: int) -> list[Trial]:
    """Of all trials of a rung one in `factor` goes on, and `top` at least: those of the furthest rung of which some are
    to go on and have not."""
    for rung in reversed(range(len(rungs) - 1)):
        known = {trial.name for trial in rungs[rung + 1]}
        number = max(top, len(rungs[rung]) // factor)
        further = [replace(trial, rung=rung + 1) for trial in best_of(rungs[rung], ended)[:number]]
        if found := [trial for trial in further if trial.name not in known]:
            return found
    return []


def promoted_at_once(rungs: Sequence[Sequence[Trial]], ended: Ended, factor: int) -> list[Trial]:
    """Every trial that is now among the best of its rung, one in `factor`, and has not gone on; the furthest first."""
    found: list[Trial] = []
    for rung in reversed(range(len(rungs) - 1)):
        able = best_of(rungs[rung], ended)
        known = {trial.name for trial in rungs[rung + 1]}
        further = [replace(trial, rung=rung + 1) for trial in able[: len(able) // factor]]
        found += [trial for trial in further if trial.name not in known]
    return found
