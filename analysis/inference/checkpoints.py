"""What held-out items say of single checkpoints: intervals over pairs or prompts and exact paired tests.

This level never speaks of methods: another seed of the same setting is another checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from analysis import stats
from analysis.inference.comparability import groups
from analysis.measures import Measure
from analysis.study import Study, Variant
from workbench.tracking.names import (
    EXACT_MATCH_GREEDY,
    EXACT_MATCH_SAMPLED,
    PAIR_ACCURACY,
    PAIR_MARGIN,
    in_record,
    of_samples,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PairScore:
    """One checkpoint on the held-out pairs: share with h > 0 (ties one half), its sign test against even, mean of h."""

    variant: Variant
    seed: int
    accuracy: stats.Interval
    ties: int
    against_even: stats.ExactTest
    margin: stats.Interval


@dataclass(frozen=True)
class PairedTest:
    """Two checkpoints on the same items by exact McNemar; adjusted is Holm's p over every pair of checkpoints."""

    first: Variant
    second: Variant
    items: int
    only_first: int
    only_second: int
    exact: stats.ExactTest
    adjusted: float


def interval_of(study: Study, variant: Variant, measure: Measure) -> stats.Interval:
    """A variant's mean with its t interval over seeds; for one seed, the checkpoint's interval over its held-out items.

    Items: Wilson for a rate with one outcome an item, else Student's t over items, samples of a prompt averaged first.
    """
    return study.measured(measure).within(_interval_of(study, variant, measure))


def _interval_of(study: Study, variant: Variant, measure: Measure) -> stats.Interval:
    values = study.values(variant, measure.column)
    if len(values) != 1:
        return stats.t_interval(values)
    if measure.column == PAIR_MARGIN:
        rows = final_items(study, study.loaded.pairs).get(variant.name)
        return stats.t_interval(list(rows["h"].astype(float))) if rows is not None else stats.t_interval(values)
    if measure.column == EXACT_MATCH_SAMPLED:
        rows = final_items(study, study.loaded.completions).get(variant.name)
        if rows is not None and (rows["split"] == "sampled").any():
            by_prompt = rows[rows["split"] == "sampled"].groupby("prompt_id")["exact_match"].agg(["mean", "size"])
            if by_prompt["size"].max() > 1:
                return stats.t_interval(list(by_prompt["mean"].astype(float)))
    if of_samples(measure.column):
        rows = final_items(study, study.loaded.completions).get(variant.name)
        return stats.t_interval(list(prompt_values(rows, measure)) if rows is not None else values)
    counts = study.values(variant, measure.counted_by) if measure.counted_by else []
    return stats.wilson(values[0] * counts[0], int(counts[0])) if counts else stats.t_interval(values)


def prompt_values(rows: pd.DataFrame, measure: Measure) -> pd.Series:
    """What the samples of each prompt come to in pass@k or majority@k, by prompt_id."""
    column = in_record(measure.column)
    known = rows[rows[column].notna()] if column in rows else rows.iloc[:0].assign(**{column: 0.0})
    return known.set_index("prompt_id")[column].astype(float)


def one_seed(study: Study) -> bool:
    """Whether no variant has two finished seeds, so that only checkpoints can be spoken of."""
    finished = study.loaded.runs[study.loaded.runs["state"] == "finished"]
    return bool(len(finished)) and int(finished["variant"].value_counts().max()) < 2


def final_items(study: Study, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of the finished runs at the step whose weights they left, by variant (the lowest seed's). table: one of the
    study's own, which it keeps."""
    key = ("final items", id(table))
    if key not in study.memo:
        study.memo[key] = _final_items(study, table)
    return dict(study.memo[key])


def _final_items(study: Study, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    if table.empty:
        return {}
    found = {}
    for variant in study.variants:
        runs = study.finals[(study.finals["variant"] == variant.name) & study.finals["finished"]]
        for run, step in zip(*(runs.sort_values("seed")[key] for key in ("run", "step")), strict=True):
            rows = table[(table["run"] == run) & (table["step"] == step)]
            if len(rows):
                found[variant.name] = rows
                break
    return found


def pair_scores(study: Study) -> list[PairScore]:
    """Every variant's checkpoint on the held-out pairs."""
    scores = []
    by_name = {variant.name: variant for variant in study.variants}
    for name, rows in final_items(study, study.loaded.pairs).items():
        h = rows["h"].astype(float)
        above, below, n = int((h > 0).sum()), int((h < 0).sum()), len(h)
        accuracy = stats.wilson(above + (n - above - below) / 2, n)
        scores.append(
            PairScore(
                by_name[name],
                int(rows["seed"].iloc[0]),
                accuracy,
                n - above - below,
                stats.sign_test(above, below),
                stats.t_interval(list(h)),
            )
        )
    return scores


def paired_tests(study: Study) -> tuple[str, list[PairedTest]]:
    """(what was counted, exact McNemar between every two checkpoints on the items that both were scored on).

    Pairs decided rightly where there is pairs.jsonl, else greedy exact match of the held-out prompts. No tests of a
    search that is not confirmed.
    """
    items, outcomes = _right_by_item(study)
    if study.is_unconfirmed:
        return items, []
    by_name = {variant.name: variant for variant in study.variants}
    found = []
    column = PAIR_ACCURACY if "pairs" in items else EXACT_MATCH_GREEDY
    alike = [{variant.name for variant in group.study.variants} for group in groups(study, column)]
    for first, second in combinations(outcomes, 2):
        if not any(first in names and second in names for names in alike):
            continue
        a, b = outcomes[first].align(outcomes[second], join="inner")
        if len(a):
            found.append((by_name[first], by_name[second], len(a), *stats.mcnemar(list(a > 0.5), list(b > 0.5))))
    adjusted = stats.holm([exact.p for *_, exact in found])
    return items, [PairedTest(*row, p) for row, p in zip(found, adjusted, strict=True)]


def _right_by_item(study: Study) -> tuple[str, dict[str, pd.Series]]:
    pairs = final_items(study, study.loaded.pairs)
    if pairs:
        return "held-out pairs with h > 0", {
            name: (rows.set_index("pair_id")["h"].astype(float) > 0).astype(float) for name, rows in pairs.items()
        }
    completions = final_items(study, study.loaded.completions)
    outcomes = {}
    for name, rows in completions.items():
        greedy = rows[rows["split"] == "greedy"].drop_duplicates("prompt_id")
        if len(greedy) and "exact_match" in greedy:
            outcomes[name] = greedy.set_index("prompt_id")["exact_match"].astype(float)
    return "held-out prompts answered rightly (greedy)", outcomes


def cannot_tell_apart(tests: list[PairedTest]) -> bool:
    """Whether no two checkpoints differ at 0.05 after Holm."""
    return all(math.isnan(test.adjusted) or test.adjusted >= 0.05 for test in tests)
