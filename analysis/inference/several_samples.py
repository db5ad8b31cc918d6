"""pass@k and majority@k: every setting against its start and against the others, over seeds and over prompts apart.

Over seeds a setting's own change is tested by a one-sample t test, and two settings by Welch's. Over prompts the lowest
seeds' checkpoints are compared by the paired differences of the same prompts, which speaks of these weights alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from analysis import stats
from analysis.inference.checkpoints import final_items, prompt_values
from analysis.inference.comparability import groups
from analysis.measures import Measure
from analysis.study import Study, Variant

if TYPE_CHECKING:
    import pandas as pd

NOTHING = stats.Interval(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Contrast:
    """The difference first less second in one measure. second: None for the start that first began from."""

    measure: Measure
    first: Variant
    second: Variant | None
    over_seeds: stats.Interval
    p_seeds: float
    over_prompts: stats.Interval
    p_prompts: float
    holm_seeds: float = math.nan
    """Adjusted over all contrasts of the report's several samples, as holm_prompts is."""
    holm_prompts: float = math.nan


def contrasts(study: Study) -> list[Contrast]:
    """Every contrast that has a test or a difference, by measure; none of a search that is not confirmed."""
    if study.is_unconfirmed:
        return []
    after = final_items(study, study.loaded.completions)
    found = []
    for measure in study.of_samples:
        found += [_from_start(study, measure, variant, after) for variant in study.compared(measure.column)]
        for group in groups(study, measure.column):
            able = group.study.compared(measure.column)
            found += [_between(study, measure, *pair, after) for pair in combinations(able, 2)]
    found = [each for each in found if each.over_seeds.n or each.over_prompts.n]
    adjusted = zip(found, stats.holm([c.p_seeds for c in found]), stats.holm([c.p_prompts for c in found]), strict=True)
    return [replace(own, holm_seeds=seeds, holm_prompts=prompts) for own, seeds, prompts in adjusted]


def over_prompts(study: Study, measure: Measure, variant: Variant) -> stats.Interval:
    """The lowest seed's checkpoint, with a t interval over its prompts."""
    rows = final_items(study, study.loaded.completions).get(variant.name)
    return NOTHING if rows is None else measure.within(stats.t_interval(list(prompt_values(rows, measure))))


def _from_start(study: Study, measure: Measure, variant: Variant, after: dict[str, pd.DataFrame]) -> Contrast:
    rows = study.finals[(study.finals["variant"] == variant.name) & study.finals["finished"]]
    changes = [float(x) for x in rows[measure.column] - rows[f"start/{measure.column}"] if not math.isnan(x)]
    seeds, p_seeds = (stats.t_interval(changes), stats.one_sample_p(changes)) if changes else (NOTHING, math.nan)
    prompts, p_prompts = NOTHING, math.nan
    last, table = after.get(variant.name), study.loaded.completions
    if last is not None and int(last["step"].iloc[0]):
        before = table[(table["run"] == last["run"].iloc[0]) & (table["step"] == 0)]
        prompts, p_prompts = _paired(last, before, measure)
    return Contrast(measure, variant, None, seeds, p_seeds, prompts, p_prompts)


def _between(
    study: Study, measure: Measure, first: Variant, second: Variant, after: dict[str, pd.DataFrame]
) -> Contrast:
    own, other = (study.values(variant, measure.column) for variant in (first, second))
    test = stats.welch(own, other)
    seeds = stats.Interval(test.difference, test.low, test.high, min(len(own), len(other)))
    prompts, p_prompts = NOTHING, math.nan
    if first.name in after and second.name in after:
        prompts, p_prompts = _paired(after[first.name], after[second.name], measure)
    return Contrast(measure, first, second, seeds, test.p, prompts, p_prompts)


def _paired(first: pd.DataFrame, second: pd.DataFrame, measure: Measure) -> tuple[stats.Interval, float]:
    """The mean paired difference over the prompts that both have, and its p."""
    a, b = prompt_values(first, measure).align(prompt_values(second, measure), join="inner")
    return stats.mean_difference([float(x) for x in a - b]) if len(a) else (NOTHING, math.nan)
