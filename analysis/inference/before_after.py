"""One checkpoint before training and after it, on the same held-out items: what changed, and whether it can be told.

This level speaks of the checkpoint that one seed left, never of the method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analysis import stats
from analysis.inference.checkpoints import final_items
from analysis.measures import BY_COLUMN, Measure, format_p
from analysis.study import Study, Variant
from workbench.tracking.names import EXACT_MATCH_GREEDY, HELD_OUT_LOSS
from workbench.tracking.words import plural

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Change:
    """A held-out measure before and after; change has NaN limits where only the exact test speaks of it."""

    variant: Variant
    measure: Measure
    before: stats.Interval
    after: stats.Interval
    change: stats.Interval
    p: float
    how: str
    """What the test counted and found, in words."""

    @property
    def amount(self) -> str:
        """The change with its sign, and its interval where it has one."""
        numbers = [self.change.mean] if math.isnan(self.change.low) else [*vars(self.change).values()][:3]
        mean, *limits = [("−" if x < 0 else "+") + self.measure.text(abs(x)) for x in numbers]
        return f"{mean} ({' to '.join(limits)})" if limits else mean


def changes(study: Study) -> list[Change]:
    """The changes of every variant's lowest finished seed: greedy exact match (exact McNemar), held-out loss (paired,
    by rows)."""
    found = []
    for variant in study.variants:
        for table, compare in ((study.loaded.completions, _exact_match), (study.loaded.losses, _loss)):
            after = final_items(study, table).get(variant.name)
            if after is None or not int(after["step"].iloc[0]):
                continue
            before = table[(table["run"] == after["run"].iloc[0]) & (table["step"] == 0)]
            if len(before):
                found += compare(variant, before, after)
    return found


def _exact_match(variant: Variant, before: pd.DataFrame, after: pd.DataFrame) -> list[Change]:
    first, last = (
        rows[(rows["split"] == "greedy") & rows["exact_match"].notna()]
        .drop_duplicates("prompt_id")
        .set_index("prompt_id")["exact_match"]
        > 0.5
        for rows in (before, after)
    )
    first, last = first.align(last, join="inner")
    n = len(first)
    if not n:
        return []
    lost, gained, exact = stats.mcnemar(list(first), list(last))
    was, became = (stats.wilson(int(right.sum()), n) for right in (first, last))
    change = stats.Interval(became.mean - was.mean, math.nan, math.nan, n)
    how = f"of {plural(n, 'prompt')} {gained} gained, {lost} lost; exact McNemar {format_p(exact.p)}"
    return [Change(variant, BY_COLUMN[EXACT_MATCH_GREEDY], was, became, change, exact.p, how)]


def _loss(variant: Variant, before: pd.DataFrame, after: pd.DataFrame) -> list[Change]:
    first, last = (rows.set_index("row_id")[["loss_sum", "num_tokens"]] for rows in (before, after))
    first, last = first.align(last, join="inner", axis=0)
    tokens = list(first["num_tokens"])
    difference = last["loss_sum"] - first["loss_sum"]
    measure = replace(BY_COLUMN[HELD_OUT_LOSS], least=0.0)  # of rows it is a negative log-likelihood
    was, became = (measure.within(stats.ratio_interval(list(rows["loss_sum"]), tokens)) for rows in (first, last))
    change = stats.ratio_interval(list(difference), tokens)
    how = f"paired over {plural(len(first), 'row')}, weighed by their tokens"
    return [Change(variant, measure, was, became, change, math.nan, how)]


def in_words(found: list[Change]) -> list[str]:
    """Says each change in one sentence."""
    return [
        f"{change.measure.subject}: {_with_limits(change.before, change)} before, "
        f"{_with_limits(change.after, change)} after, change {change.amount}; {change.how}."
        for change in found
    ]


def _with_limits(interval: stats.Interval, change: Change) -> str:
    text = change.measure.text
    if math.isnan(interval.low):
        return text(interval.mean)
    return f"{text(interval.mean)} (95 % interval {change.measure.span(interval.low, interval.high)})"
