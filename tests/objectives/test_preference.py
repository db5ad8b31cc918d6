"""DPO and its relatives, each by numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.objectives.preference import PREFERENCE_LOSSES, PairLogratios
from workbench.trainer.dpo_settings import DPOSettings

LN2 = 0.693147180559945


def known_pairs():
    """beta h = 0, 1, 2 at beta 0.1; lengths 4 and 2."""
    policy_chosen, policy_rejected = torch.tensor([-0.5, -10.0, -1.0]), torch.tensor([-0.1, -30.0, -21.0])
    ref_chosen, ref_rejected = torch.tensor([-0.5, -10.1, -0.1]), torch.tensor([-0.1, -20.1, -0.1])
    lengths = torch.full((3,), 4), torch.full((3,), 2)
    return PairLogratios(policy_chosen - ref_chosen, policy_rejected - ref_rejected, *lengths)


def loss(name, label_smoothing=0.0, beta=0.1, pairs=None):
    return PREFERENCE_LOSSES[name](pairs or known_pairs(), beta, label_smoothing).tolist()


def test_h_is_the_difference_of_the_log_ratios():
    assert known_pairs().h.tolist() == pytest.approx([0.0, 10.0, 20.0], abs=1e-5)


def test_sigmoid_known_values():
    assert loss("sigmoid") == pytest.approx([LN2, 0.313261687518223, 0.126928011042972], rel=1e-6)


def test_hinge_known_values():
    assert loss("hinge") == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)


def test_ipo_averages_each_side_and_ipo_sum_does_not():
    # h' = 0 / 4 - 0 / 2; 0.1 / 4 + 9.9 / 2 = 4.975; -0.9 / 4 + 20.9 / 2 = 10.225; target 1 / (2 * 0.1) = 5
    assert loss("ipo") == pytest.approx([25.0, 0.025**2, 5.225**2], rel=1e-4, abs=1e-6)
    assert loss("ipo_sum") == pytest.approx([25.0, 25.0, 225.0], rel=1e-5)


def test_cdpo_mixes_both_labels():
    # 0.75 * l(1) + 0.25 * l(-1) = 0.75 * 0.313262 + 0.25 * 1.313262
    assert loss("cdpo", 0.25) == pytest.approx([LN2, 0.563261687518, 0.626928011043], rel=1e-6)


def test_robust_subtracts_the_flipped_label_and_is_unbounded_below():
    # (0.75 * 0.313262 - 0.25 * 1.313262) / 0.5 = -0.186738
    assert loss("robust", 0.25) == pytest.approx([LN2, -0.186738312482, -0.873071988957], rel=1e-5)


@pytest.mark.parametrize(("name", "expected"), [("sigmoid", LN2), ("hinge", 1.0), ("ipo", 25.0), ("ipo_sum", 25.0)])
def test_at_the_reference_the_loss_is_known(name, expected):
    same = PairLogratios(torch.zeros(1), torch.zeros(1), torch.ones(1), torch.ones(1))
    assert loss(name, pairs=same) == pytest.approx([expected])


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_smoothing_of_zero_is_no_smoothing_and_every_loss_is_a_setting(name):
    plain = {"cdpo": "sigmoid", "robust": "sigmoid"}.get(name, name)
    assert loss(name, 0.0) == loss(plain, 0.0)
    DPOSettings(loss=name, label_smoothing=0.1 if name in ("cdpo", "robust") else 0.0)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_gradient_raises_the_chosen_and_lowers_the_rejected(name):
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    PREFERENCE_LOSSES[name](PairLogratios(chosen, rejected, torch.ones(1), torch.ones(1)), 0.1, 0.1).sum().backward()
    assert chosen.grad.item() < 0 < rejected.grad.item()
    assert chosen.grad.item() == -rejected.grad.item()


def test_extreme_margins_stay_finite():
    far = PairLogratios(torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4]), torch.ones(2), torch.ones(2))
    assert all(math.isfinite(value) for name in PREFERENCE_LOSSES for value in loss(name, 0.1, 1.0, far))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"loss": "cdpo"}, "cdpo needs label_smoothing"),
        ({"loss": "robust"}, "robust needs label_smoothing"),
        ({"loss": "sigmoid", "label_smoothing": 0.1}, "sigmoid ignores label_smoothing"),
        ({"loss": "robust", "label_smoothing": 0.5}, "less than 0.5"),
        ({"beta": 0.0}, "greater than 0"),
    ],
)
def test_a_loss_that_would_ignore_a_setting_is_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        DPOSettings(**settings)
