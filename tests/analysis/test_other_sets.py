"""Held-out sets that do not decide: read under plain names, and what was forgotten on them is named."""

from __future__ import annotations

import math

import pandas as pd

from analysis import held_out_sets
from analysis.inference.other_sets import SetResult, in_words
from analysis.measures import BY_COLUMN
from analysis.stats import Interval
from analysis.study import Variant

GREEDY = "eval/exact_match_greedy"


def test_a_set_s_measures_are_read_under_plain_names_whether_it_decides_or_not() -> None:
    rows = [
        {"run": "a", "step": 0, GREEDY: 0.5, "eval/gsm8k/exact_match_greedy": 0.2},
        {"run": "b", "step": 0, GREEDY: 0.4},
    ]
    found = held_out_sets.metrics_on_set(pd.DataFrame(rows), {"a": "sort", "b": "gsm8k"}, "gsm8k")
    assert list(found[GREEDY]) == [0.2, 0.4]
    assert "eval/gsm8k/exact_match_greedy" not in found


def test_rows_of_other_sets_are_left_out_and_rows_without_a_set_are_the_deciding_one_s() -> None:
    table = pd.DataFrame([{"run": "a", "set": "sort"}, {"run": "a", "set": "gsm8k"}, {"run": "b", "set": None}])
    decides = {"a": "sort", "b": None}
    assert list(held_out_sets.rows_on_set(table, decides, None)["run"]) == ["a", "b"]
    assert list(held_out_sets.rows_on_set(table, decides, "gsm8k")["set"]) == ["gsm8k"]


def _result(change: float, adjusted: float, paired: float) -> SetResult:
    variant = Variant("main", "dpo", "", None)
    interval = Interval(change, change - 0.02, change + 0.02, 3)
    return SetResult("gsm8k", BY_COLUMN[GREEDY], variant, [0.12], 0.41, interval, adjusted, paired, "30 lost")


def test_a_set_is_forgotten_where_it_fell_by_more_than_seeds_or_prompts_scatter() -> None:
    assert _result(-0.29, 0.01, math.nan).forgotten
    assert _result(-0.29, math.nan, 0.001).forgotten
    assert not _result(-0.29, 0.2, 0.3).forgotten
    assert not _result(0.29, 0.01, math.nan).forgotten
    text = in_words(_result(-0.29, 0.01, 0.001))
    assert text.startswith("Forgotten at dpo: on the held-out set gsm8k greedy exact match fell from 0.410")
