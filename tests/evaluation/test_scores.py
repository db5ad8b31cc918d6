"""Held-out pairs by a reward model's scores: accuracy, margin, level, and whether scores go with length."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.data.ragged import Ragged
from workbench.data.sets import PairSet
from workbench.evaluation.pairs import ScoreEvaluator, rank_correlation
from workbench.tracking.reader import read_rows


def pair_set(chosen, rejected):
    """Pairs of the prompt [5] whose completions have so many tokens."""
    sides = (Ragged.from_rows([np.arange(1, n + 1, dtype=np.int32) for n in lengths]) for lengths in (chosen, rejected))
    return PairSet(Ragged.from_rows([np.array([5], np.int32)] * len(chosen)), *sides)


@pytest.fixture
def scorer(torch):
    """A model whose score of a completion is its number of tokens, less one where that is 1."""

    class ByLength(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, prompt_ids, prompt_mask, completion_ids, completion_mask, prompt_index):
            lengths = completion_mask.sum(1)
            return torch.where(lengths == 1, 0, lengths).float()

    return ByLength()


def test_scores_of_pairs_by_numbers_worked_by_hand(scorer, tmp_path):
    """Scores 2, 3, 0 and 2, 0, 4: differences 0, 3 and -4."""
    records = tmp_path / "pairs.jsonl"
    metrics = ScoreEvaluator(pair_set([2, 3, 1], [2, 1, 4]), batch_pairs=2, records=records)(scorer, 7)
    assert metrics["eval/pair_accuracy"] == pytest.approx(0.5)
    assert metrics["eval/pair_margin"] == pytest.approx(-1 / 3)
    assert metrics["eval/num_pairs"] == 3
    assert metrics["eval/score_mean"] == pytest.approx(11 / 6)
    assert metrics["eval/score_sd"] == pytest.approx((77 / 30) ** 0.5)
    assert metrics["eval/length_correlation"] == pytest.approx(1.0)
    assert [(row["step"], row["h"]) for row in read_rows(records)] == [(7, 0.0), (7, 3.0), (7, -4.0)]


def test_where_all_lengths_are_alike_nothing_goes_with_them(scorer):
    assert "eval/length_correlation" not in ScoreEvaluator(pair_set([2, 2], [2, 2]))(scorer, 0)


def test_rank_correlation_shares_the_ranks_of_ties():
    """Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 x 5)."""
    found = rank_correlation(np.array([1.0, 7.0, 7.0, 9.0]), np.array([1, 2, 3, 4]))
    assert found == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert rank_correlation(np.array([3.0, 1.0]), np.array([1, 2])) == pytest.approx(-1.0)
