"""The answer in two sentences, with what it rests on and what it may not claim.

Claims about methods rest on the spread over seeds and on nothing else: per-prompt tests on one seed call most equal
methods different. So with one seed there is no claim about methods, and the page says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from analysis import stats
from analysis.inference import before_after, comparability
from analysis.inference.checkpoints import interval_of
from analysis.inference.left_out import unfinished, without_value
from analysis.measures import Measure, format_number, format_p, join, join_few, plain
from analysis.study import Study, Variant, starts_of
from workbench.tracking.names import NUM_PAIRS
from workbench.tracking.words import plural

LEVEL = 0.05
NAMED = 3
"""Settings up to which all are named one by one."""


@dataclass(frozen=True)
class Comparison:
    """Two variants by Welch's test on seed means; adjusted is Holm's p over every pair of the table."""

    first: Variant
    second: Variant
    test: stats.TTest
    adjusted: float
    exact: stats.ExactTest

    @property
    def separated(self) -> bool:
        """Whether the adjusted p is below 0.05."""
        return self.adjusted < LEVEL


@dataclass(frozen=True)
class Gain:
    """A variant's change from its own start, by a one-sample t test over seeds; adjusted over the variants."""

    variant: Variant
    change: stats.Interval
    adjusted: float


@dataclass(frozen=True)
class Answer:
    """Two sentences, the grounds they stand on, and warnings that a reader must see first."""

    result: str
    certainty: str
    grounds: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


def compare_all(study: Study, measure: Measure) -> list[Comparison]:
    """Every pair of variants that may be compared, with two or more finished seeds each."""
    found = []
    for first, second in _pairs(study, measure):
        a, b = study.values(first, measure.column), study.values(second, measure.column)
        found.append((first, second, stats.welch(a, b), stats.permutation_p(a, b, np.random.default_rng(0))))
    adjusted = stats.holm([test.p for _, _, test, _ in found])
    return [Comparison(a, b, test, p, exact) for (a, b, test, exact), p in zip(found, adjusted, strict=True)]


def _pairs(study: Study, measure: Measure) -> list[tuple[Variant, Variant]]:
    found: list[tuple[Variant, Variant]] = []
    if study.is_unconfirmed:
        return found
    for group in comparability.groups(study, measure.column):
        able = [v for v in group.study.variants if len(study.values(v, measure.column)) >= 2]
        found += list(combinations(able, 2))
    return found


def gains(study: Study, measure: Measure) -> list[Gain]:
    """Change of each variant from the start, where it has two or more finished seeds evaluated before training."""
    found = []
    table = study.finals
    if not study.has(f"start/{measure.column}"):
        return []
    for variant in study.variants:
        rows = table[(table["variant"] == variant.name) & table["finished"]]
        changes = [float(x) for x in rows[measure.column] - rows[f"start/{measure.column}"] if not math.isnan(x)]
        if len(changes) >= 2:
            found.append((variant, stats.t_interval(changes), stats.one_sample_p(changes)))
    adjusted = stats.holm([p for _, _, p in found])
    return [Gain(variant, change, p) for (variant, change, _), p in zip(found, adjusted, strict=True)]


def best_of(study: Study, measure: Measure) -> Variant | None:
    """The variant with the best mean over finished seeds; the first of equals."""
    return best_among(study, measure, study.variants)


def best_among(study: Study, measure: Measure, variants: Sequence[Variant]) -> Variant | None:
    """The best of these variants; None where none has a finished run with the measure."""
    sign = 1.0 if measure.higher_is_better else -1.0
    candidates = [variant for variant in variants if study.values(variant, measure.column)]
    return max(candidates, key=lambda v: sign * float(np.mean(study.values(v, measure.column))), default=None)


def all_equal(study: Study, measure: Measure, variants: Sequence[Variant]) -> bool:
    """Whether these variants' means are the same but for rounding, so that none is highest."""
    means = np.array([np.mean(study.values(variant, measure.column)) for variant in variants])
    return len(means) > 1 and not float(np.ptp(means)) > 1e-12 * float(np.abs(means).max())


def at_the_edge(study: Study, best: Variant, measure: Measure) -> str | None:
    """Which end of the numeric grid the best lies on, with its value; None inside, without a grid of three, or where
    another setting of the grid is as good."""
    line = [v for v in study.variants if v.group == best.group and v.position is not None]
    if best.position is None or len(line) < 3:
        return None
    if any(v is not best and all_equal(study, measure, [best, v]) for v in line if study.values(v, measure.column)):
        return None
    if best is line[0]:
        return f"lowest {study.axis} tried, {plain(best.position)}"
    return f"highest {study.axis} tried, {plain(best.position)}" if best is line[-1] else None


def answer(study: Study) -> Answer:
    """The question's answer by the deciding measure, at the certainty that the seeds allow."""
    measure = study.deciding
    flags = unfinished(study) + comparability.refusals(study)
    flags += without_value(study, measure) if measure is not None else []
    if measure is None or not study.compared(measure.column):
        reason = "no finished run has a held-out measure"
        return Answer(f"There is no answer yet: {reason}.", "Nothing can be claimed.", [], flags)
    apart = [group for group in comparability.groups(study, measure.column) if group.study.compared(measure.column)]
    if len(apart) == 1:
        return _of_group(study, measure, flags)
    found = [_of_group(group.study, measure, []) for group in apart]
    names = [f"Group {group.name} ({join_few(group.labels)})" for group in apart]
    grounds = [f"Group {group.name}: {text}" for group, own in zip(apart, found, strict=True) for text in own.grounds]
    result = " ".join(f"{name}: {own.result}" for name, own in zip(names, found, strict=True))
    certainty = " ".join(f"Group {group.name}: {own.certainty}" for group, own in zip(apart, found, strict=True))
    more = [flag for own in found for flag in own.flags]
    return Answer(result, f"Nothing is claimed across the groups. {certainty}", grounds, flags + more)


def _of_group(study: Study, measure: Measure, flags: list[str]) -> Answer:
    """The answer about settings that may be compared."""
    candidates = study.compared(measure.column)
    if len(candidates) == 1:
        return _single(study, measure, candidates[0], flags)
    if sum(len(study.values(v, measure.column)) >= 2 for v in candidates) < 2:
        return _one_seed(study, measure, candidates, flags)
    return _ranked(study, measure, flags)


def _ranked(study: Study, measure: Measure, flags: list[str]) -> Answer:
    best = best_of(study, measure)
    assert best is not None, "a ranking needs a finished variant"
    comparisons = compare_all(study, measure)
    compared = study.compared(measure.column)
    if all_equal(study, measure, compared):
        return _equal(study, measure, compared, flags)
    interval = interval_of(study, best, measure)
    edge = at_the_edge(study, best, measure)
    where = ""
    if edge:
        flags.append(
            f"The best value is at the edge of the grid ({edge}): the optimum may lie beyond it. Widen the grid before "
            "reading this as the best setting."
        )
    elif best.position is not None:
        where = ", inside the grid"
    start = study.start_value(measure.column)
    against = f", against {measure.text(start)} at the start" if not math.isnan(start) else ""
    ours = [c for c in comparisons if best in (c.first, c.second)]
    apart = [c for c in ours if c.separated]
    close = [c for c in ours if not c.separated]
    result = (
        f"{measure.subject} is {'highest' if close else 'best'} at {best.label}{where}: "
        f"{_with_interval(interval, measure)} over {plural(interval.n, 'seed')}{against}"
    )
    if close:
        beside = [_beside(study, measure, other) for other in _others(best, close)]
        result += f"; {join_few(beside)} cannot be told from it"
    certainty = f"{_from_start(study)}, {_verdict(best, apart, close, len(comparisons), measure)}."
    grounds = _gain_grounds(study, measure) + _power_grounds(study, measure)
    return Answer(f"{result}.", certainty, grounds + _alone(study, measure), flags)


def _equal(study: Study, measure: Measure, compared: list[Variant], flags: list[str]) -> Answer:
    """The answer about settings whose means are all the same: none is highest, at an edge or ahead."""
    mean = measure.text(float(np.mean(study.values(compared[0], measure.column))))
    start = study.start_value(measure.column)
    against = f", against {measure.text(start)} at the start" if not math.isnan(start) else ""
    result = f"{measure.subject} has the same mean, {mean}, at all {plural(len(compared), 'setting')}{against}."
    certainty = f"{_from_start(study)}, no setting is ahead of another: there is no difference to test."
    grounds = _gain_grounds(study, measure) + _power_grounds(study, measure) + _alone(study, measure)
    return Answer(result, certainty, grounds, flags)


def _alone(study: Study, measure: Measure) -> list[str]:
    alone = [v.label for v in study.compared(measure.column) if len(study.values(v, measure.column)) == 1]
    return [f"{join(alone)} finished with one seed only and is left out of every test."] if alone else []


def _beside(study: Study, measure: Measure, variant: Variant) -> str:
    return f"{variant.label} ({measure.text(float(np.mean(study.values(variant, measure.column))))})"


def leaders(study: Study, measure: Measure) -> list[Variant]:
    """The best setting and every one that cannot be told from it; none where all are the same, or a search has not
    confirmed its best."""
    if study.is_unconfirmed or all_equal(study, measure, study.compared(measure.column)):
        return []
    best = best_of(study, measure)
    close = [c for c in compare_all(study, measure) if best in (c.first, c.second) and not c.separated]
    return [] if best is None else [best, *_others(best, close)]


def _others(best: Variant, comparisons: list[Comparison]) -> list[Variant]:
    return [c.second if c.first is best else c.first for c in comparisons]


def _from_start(study: Study) -> str:
    return "From this start" if len(starts_of(study)) == 1 else "From these different starts"


def _verdict(best: Variant, apart: list[Comparison], close: list[Comparison], m: int, measure: Measure) -> str:
    method = f"Welch's test on seed means, Holm over all {plural(m, 'pair')}" if m > 1 else "Welch's test on seed means"

    def others(comparisons: list[Comparison]) -> str:
        return _all_or_named([variant.label for variant in _others(best, comparisons)], len(apart) + len(close))

    if not apart and not close:
        return "no other setting has two finished seeds, so nothing can be compared"
    ahead = f"its lead over {others(close)} is {_differences(best, close, measure)}, {_least(close)}" if close else ""
    if not apart:
        return f"{best.label} is no more than the highest of the means: {ahead}; {method}"
    better = f"{best.label} is better than {others(apart)} by {_differences(best, apart, measure)}"
    tested = f"{better}, {_worst(apart)} ({method})"
    return f"{tested}; {ahead}: no claim" if close else tested


def _all_or_named(labels: list[str], of: int, every: str = "each of the {} others") -> str:
    """The labels; where there are many and they are all that there are, how many."""
    return every.format(of) if len(labels) == of > NAMED else join(labels)


def _differences(best: Variant, comparisons: list[Comparison], measure: Measure) -> str:
    """Says by how much the best is ahead: one difference with its interval, or of several the least and the
    greatest."""
    ahead = []
    for c in comparisons:
        sign = 1.0 if (c.first is best) == bool(measure.higher_is_better) else -1.0
        low, high = sorted((sign * c.test.low, sign * c.test.high))
        ahead.append((sign * c.test.difference, low, high))
    if len(ahead) == 1:
        difference, low, high = ahead[0]
        limits = "" if math.isnan(low) else f" (95 % interval {format_number(low)} to {format_number(high)})"
        return f"{format_number(difference)}{limits}"
    least, most = min(ahead), max(ahead)
    ends = [end for _, low, high in ahead for end in (low, high) if not math.isnan(end)]
    reach = f" (95 % intervals from {format_number(min(ends))} to {format_number(max(ends))})" if ends else ""
    return f"{format_number(least[0])} to {format_number(most[0])}{reach}"


def _worst(comparisons: list[Comparison]) -> str:
    highest = max(c.adjusted for c in comparisons)
    each = "adjusted " if len(comparisons) == 1 else "each adjusted "
    return f"{each}p < 0.001" if highest < 0.001 else f"{each}p ≤ {highest:.3f}"


def _least(comparisons: list[Comparison]) -> str:
    known = [c.adjusted for c in comparisons if not math.isnan(c.adjusted)]
    if not known:
        return "no spread over the seeds to test by"
    return f"adjusted {format_p(known[0])}" if len(known) == 1 else f"adjusted p ≥ {min(known):.2f}"


def _gain_grounds(study: Study, measure: Measure) -> list[str]:
    found = gains(study, measure)
    up: list[str] = []
    down: list[str] = []
    unclear: list[str] = []
    for gain in found:
        better = gain.change.mean > 0 if measure.higher_is_better else gain.change.mean < 0
        (unclear if not gain.adjusted < LEVEL else up if better else down).append(gain.variant.label)
    if not found:
        return []
    parts = []
    for labels, said in ((up, "better"), (down, "worse"), (unclear, "not told from it")):
        if labels:
            parts.append(f"{said} at {_all_or_named(labels, len(found), 'each of the {} settings')}")
    family = f", Holm over {plural(len(found), 'setting')}" if len(found) > 1 else ""
    return [f"Against the start itself: {'; '.join(parts)} (one-sample t over seeds{family}, level 0.05)."]


def _power_grounds(study: Study, measure: Measure) -> list[str]:
    groups = [study.values(v, measure.column) for v in study.variants]
    groups = [values for values in groups if len(values) >= 2]
    n, pairs = min(len(values) for values in groups), len(_pairs(study, measure))
    fewest = " (the fewest here)" if n < max(len(values) for values in groups) else ""
    spread = math.sqrt(float(np.mean([np.var(values, ddof=1) for values in groups])))
    effect = stats.minimum_detectable_effect(n, alpha=LEVEL / max(1, pairs))
    level = f", at the level that Holm leaves for the first of {plural(pairs, 'pair')}" if pairs > 1 else ""
    found = f"{plural(n, 'seed')} a setting{fewest} find a difference of {effect:.2f}"
    if stats.has_spread(spread, *map(np.asarray, groups)):
        amount = format_number(effect * spread)
        if measure.kind == "rate" and effect * spread > 1:
            amount += ", more than two rates can differ by: no difference can be found"
        grounds = [
            f"The pooled seed standard deviation is {format_number(spread)}; {found} of these "
            f"({amount}) four times in five{level}."
        ]
    else:
        grounds = [
            "The seeds of each setting gave one value, so their standard deviation is not known; "
            f"{found} seed standard deviations four times in five{level}."
        ]
    floor = max(stats.permutation_p(range(n), range(n, 2 * n)).floor, 0.0) if n <= 8 else 0.0
    if floor >= LEVEL:
        grounds.append(
            f"An exact permutation test of {n} against {n} seeds cannot give less than p = {floor:.2g}: these claims "
            "rest on the seeds' scatter being near normal."
        )
    same = "the same start" if len(starts_of(study)) == 1 else "the starts named below"
    grounds.append(
        f"Every run was scored on the same held-out items and began from {same}: other items or another start could "
        "move all values."
    )
    return grounds


def _single(study: Study, measure: Measure, variant: Variant, flags: list[str]) -> Answer:
    values = study.values(variant, measure.column)
    interval = interval_of(study, variant, measure)
    start = study.start_value(measure.column)
    before = f", from {measure.text(start)} before training" if not math.isnan(start) else ""
    several = len(study.variants)
    where = f" at {variant.label}, the only one of {several} settings with a final value" if several > 1 else ""
    result = f"{measure.subject} is {_with_interval(interval, measure)} after training{where}{before}."
    if len(values) == 1:
        certainty = (
            "This describes one checkpoint from one seed: the interval is over its held-out items, and nothing is "
            "claimed about what the method would give again."
        )
        return Answer(result, certainty, before_after.in_words(before_after.changes(study)), flags)
    certainty = f"The interval is Student's t over {plural(len(values), 'seed')}; it speaks of this start only."
    if interval.is_constant:
        certainty = f"The {plural(len(values), 'seed')} gave one value: how far another may lie is not known."
    return Answer(result, certainty, _gain_grounds(study, measure), flags)


def _one_seed(study: Study, measure: Measure, candidates: list[Variant], flags: list[str]) -> Answer:
    parts = [f"{_with_interval(interval_of(study, v, measure), measure)} at {v.label}" for v in candidates]
    counts = study.values(candidates[0], measure.counted_by or "")
    items = "pairs" if measure.counted_by == NUM_PAIRS else "prompts"
    on = f" on {int(counts[0])} held-out {items}" if counts else ""
    start = study.start_value(measure.column)
    before = f" (start: {measure.text(start)})" if not math.isnan(start) else ""
    result = f"The final checkpoints have {measure.label} of {join(parts)}{on}{before}."
    certainty = (
        "With one seed a setting the spread over seeds is unknown, so the settings are not ranked and nothing is "
        "claimed about the method; the intervals and tests below speak of these checkpoints only."
    )
    grounds = [
        "In a simulated null (500 prompts) a per-prompt paired test on one seed calls 55 to 67 % of equal methods "
        "different; Welch's test on seed means 3 to 4 %. Add seeds to compare settings."
    ]
    return Answer(result, certainty, grounds, flags)


def _with_interval(interval: stats.Interval, measure: Measure) -> str:
    mean = measure.text(interval.mean)
    if interval.is_constant:
        return f"{mean} (one value, the same in all {interval.n}: no interval)"
    if math.isnan(interval.low):
        return mean
    return f"{mean} (95 % interval {measure.span(interval.low, interval.high)})"


def checked_by_number(study: Study) -> bool:
    """Whether completions were compared with a file's answers by their number."""
    evaluated = [record["definition"].get("evaluate") or {} for record in study.loaded.records.values()]
    return any(evaluate.get("path") and evaluate.get("verifier") == "number" for evaluate in evaluated)
