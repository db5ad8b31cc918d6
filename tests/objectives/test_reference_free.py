"""The losses of ORPO, SimPO and CPO, each by numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.objectives.reference_free import (
    CPO_LOSSES,
    PairSums,
    alpha_reward,
    log1mexp,
    log_odds,
    log_odds_ratio,
    margin_loss,
)


def pairs_of(chosen, rejected, lengths=(1.0, 1.0)):
    return PairSums(*(torch.tensor([value]) for value in (chosen, rejected, *lengths)))


def test_the_odds_of_four_in_five_are_four():
    assert log_odds(torch.tensor([0.8, 0.5]).log()).exp().tolist() == pytest.approx([4.0, 1.0])


def test_log1mexp_keeps_its_digits_at_both_ends():
    found = log1mexp(torch.tensor([-1e-6, math.log(0.5), -30.0], dtype=torch.float64)).tolist()
    assert found == pytest.approx([math.log(1e-6), math.log(0.5), -math.exp(-30.0)], rel=1e-6)


@pytest.mark.parametrize("certain", [0.0, -1e-9, -1e-7])
def test_odds_of_a_certain_completion_are_finite_and_give_no_gradient(certain):
    means = torch.tensor([certain], requires_grad=True)
    odds = log_odds(means)
    odds.sum().backward()
    assert odds.item() == pytest.approx(math.log(1e6), rel=1e-3)
    assert means.grad.item() == 0.0


def test_the_ratio_is_of_the_mean_probability_a_token():
    # 4 tokens of probability 0.8 have odds 4; 2 of 0.5 have odds 1.
    pairs = pairs_of(4 * math.log(0.8), 2 * math.log(0.5), (4.0, 2.0))
    assert log_odds_ratio(pairs).item() == pytest.approx(math.log(4))
    # -log sigmoid(log 4) = log(1 + 1/4)
    assert margin_loss(log_odds_ratio(pairs)).item() == pytest.approx(math.log(1.25))


def test_the_target_of_simpo_stands_outside_of_beta():
    # beta 2, means -0.5 and -1, gamma 1: 2 * 0.5 - 1 = 0
    means = pairs_of(-2.0, -2.0, (4.0, 2.0)).means
    assert [mean.item() for mean in means] == [-0.5, -1.0]
    assert margin_loss(2.0 * (means[0] - means[1]), 1.0).item() == pytest.approx(math.log(2))


def test_alpha_shapes_the_reward_and_zero_leaves_it():
    means = torch.tensor([0.5, 0.25]).log()
    assert alpha_reward(means, 0.0).tolist() == means.tolist()
    # (1 - p^-1) / 1 = 1 - 2 and 1 - 4; (1 - p) / -1 = -0.5 and -0.75
    assert alpha_reward(means, 1.0).tolist() == pytest.approx([-1.0, -3.0])
    assert alpha_reward(means, -1.0).tolist() == pytest.approx([-0.5, -0.75])
    assert alpha_reward(means, 1e-4).tolist() == pytest.approx(means.tolist(), rel=1e-3)


@pytest.mark.parametrize(("name", "expected"), [("sigmoid", 0.313261687518223), ("hinge", 0.0)])
def test_cpo_is_of_the_policy_alone(name, expected):
    # beta 0.1, -10 - -20: 1
    assert CPO_LOSSES[name](pairs_of(-10.0, -20.0), 0.1).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", CPO_LOSSES)
def test_gradient_raises_the_chosen_and_lowers_the_rejected(name):
    chosen, rejected = (torch.tensor([value], requires_grad=True) for value in (-3.0, -4.0))
    CPO_LOSSES[name](PairSums(chosen, rejected, torch.ones(1), torch.ones(1)), 0.1).sum().backward()
    assert chosen.grad.item() < 0 < rejected.grad.item()
