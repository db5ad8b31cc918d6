"""The held-out sets beside the one that decides: what each setting came to on them, and which it has forgotten.

Forgetting is told over seeds by a one-sample t test of the change from the start, and of the lowest seed's checkpoint
by the paired test over prompts; each is adjusted by Holm over all sets and settings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis import stats
from analysis.inference import before_after
from analysis.inference.checkpoints import interval_of
from analysis.inference.claims import LEVEL, Comparison, compare_all
from analysis.measures import BY_COLUMN, Measure, format_number, format_p
from analysis.study import Study, Variant
from workbench.tracking.names import EXACT_MATCH_GREEDY, EXACT_MATCH_SAMPLED, HELD_OUT_LOSS, PAIR_ACCURACY
from workbench.tracking.words import plural

NOTHING = stats.Interval(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class SetResult:
    """One setting on one held-out set that does not decide. change: from its start, over seeds."""

    name: str
    measure: Measure
    variant: Variant
    values: Sequence[float]
    before: float
    change: stats.Interval
    adjusted: float
    """Holm's p of the change over seeds, over all sets and settings; NaN where there is no test."""
    paired: float = math.nan
    """Holm's p of the paired test over prompts, of the lowest seed's checkpoint."""
    how: str = ""
    """What the paired test counted, in words."""
    after: stats.Interval = NOTHING
    """The mean with its interval over seeds; of one seed, the checkpoint's over its held-out items."""

    @property
    def fell(self) -> bool:
        """Whether the mean is worse than at the start."""
        return self.change.mean < 0 if self.measure.higher_is_better else self.change.mean > 0

    @property
    def forgotten(self) -> bool:
        """Whether it fell, by more than the scatter of the seeds or of the prompts."""
        return self.fell and (self.adjusted < LEVEL or self.paired < LEVEL)


def results(study: Study) -> list[SetResult]:
    """Every setting on every other set that it has a value of."""
    if "other sets" not in study.memo:
        study.memo["other sets"] = _results(study)
    found: list[SetResult] = study.memo["other sets"]
    return found


def _results(study: Study) -> list[SetResult]:
    found: list[SetResult] = []
    over_seeds: list[float] = []
    over_prompts: list[float] = []
    for name in study.other_sets:
        view = study.on_set(name)
        checkpoints = {(each.variant.name, each.measure.column): each for each in before_after.changes(view)}
        for measure in _measures(view):
            tested = EXACT_MATCH_GREEDY if measure.column == EXACT_MATCH_SAMPLED else measure.column
            for variant in view.compared(measure.column):
                rows = view.finals[(view.finals["variant"] == variant.name) & view.finals["finished"]]
                start = rows[f"start/{measure.column}"]
                changes = [float(x) for x in rows[measure.column] - start if math.isfinite(x)]
                own = checkpoints.get((variant.name, tested))
                worse = own is not None and own.change.mean < 0
                over_seeds.append(stats.one_sample_p(changes) if len(changes) >= 2 else math.nan)
                over_prompts.append(own.p if own is not None and worse else math.nan)
                change = stats.t_interval(changes) if changes else NOTHING
                values, how = view.values(variant, measure.column), own.how if own is not None else ""
                after = interval_of(view, variant, measure)
                if own is not None and measure.column == HELD_OUT_LOSS:
                    how = f"{own.amount}, {own.how}"
                    after = own.after if len(values) == 1 else after
                before = float(start.mean())
                found.append(SetResult(name, measure, variant, values, before, change, math.nan, how=how, after=after))
    adjusted = zip(found, stats.holm(over_seeds), stats.holm(over_prompts), strict=True)
    return [replace(own, adjusted=seeds, paired=prompts) for own, seeds, prompts in adjusted]


def _measures(view: Study) -> list[Measure]:
    """What a set is shown by: what decides of it, the accuracy on its pairs where it has both, and what several samples
    a prompt come to."""
    pairs = [BY_COLUMN[PAIR_ACCURACY]] if view.has(PAIR_ACCURACY) else []
    return list(dict.fromkeys([*([view.deciding] if view.deciding is not None else []), *pairs, *view.of_samples]))


def comparisons(study: Study) -> list[tuple[str, Measure, Comparison]]:
    """Every two settings on every other set by Welch's test, Holm over all sets; what may not be compared is left
    out."""
    found = []
    for name in study.other_sets:
        view = study.on_set(name)
        if view.deciding is not None:
            found += [(name, view.deciding, each) for each in compare_all(view, view.deciding)]
    adjusted = stats.holm([each.test.p for _, _, each in found])
    return [(name, m, replace(each, adjusted=p)) for (name, m, each), p in zip(found, adjusted, strict=True)]


def flags(study: Study) -> list[str]:
    """One flag for each set and setting that forgot what the start could do."""
    return [in_words(each) for each in results(study) if each.forgotten]


def in_words(own: SetResult) -> str:
    """Says what was forgotten, and by which test."""
    text, mean = own.measure.text, float(np.mean(own.values))
    seeds = f"over {plural(own.change.n, 'seed')}"
    tests = []
    if not math.isnan(own.adjusted):
        limits = f", 95 % interval {format_number(own.change.low)} to {format_number(own.change.high)}"
        limits = "" if math.isnan(own.change.low) else limits
        tests.append(f"{seeds} a change of {format_number(own.change.mean)}{limits}, adjusted {format_p(own.adjusted)}")
    if own.how and not math.isnan(own.paired):
        tests.append(f"of the lowest seed's checkpoint alone, {own.how}, adjusted {format_p(own.paired)}")
    fell = "fell" if own.measure.higher_is_better else "rose"
    return (
        f"Forgotten at {own.variant.label}: on the held-out set {own.name} {own.measure.label} {fell} from "
        f"{text(own.before)} at the start to {text(mean)} ({'; '.join(tests)})."
    )
