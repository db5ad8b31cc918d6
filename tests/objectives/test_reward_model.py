"""The reward model's objective, by numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.objectives.reward_model import bradley_terry, centring

CHOSEN, REJECTED = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, -1.0, -1.0])


def test_a_pair_that_is_told_apart_by_so_many_nats_has_the_loss_of_a_sigmoid():
    """Differences 0, 1 and 3."""
    expected = [math.log(2), 0.313261687518223, 0.048587351573742]
    assert bradley_terry(CHOSEN, REJECTED).tolist() == pytest.approx(expected, rel=1e-6)


def test_a_margin_is_what_a_difference_counts_from():
    """Differences 0, 1 and 3 less 1, 1 and 2."""
    expected = [1.313261687518223, math.log(2), 0.313261687518223]
    assert bradley_terry(CHOSEN, REJECTED, torch.tensor([1.0, 1.0, 2.0])).tolist() == pytest.approx(expected, rel=1e-6)


def test_centring_is_the_squared_sum_of_a_pairs_scores():
    assert centring(CHOSEN, REJECTED).tolist() == [4.0, 1.0, 1.0]


def test_scores_moved_together_have_the_same_loss_and_another_centring_term():
    assert torch.equal(bradley_terry(CHOSEN + 5, REJECTED + 5), bradley_terry(CHOSEN, REJECTED))
    assert (centring(CHOSEN + 5, REJECTED + 5) > centring(CHOSEN, REJECTED)).all()
