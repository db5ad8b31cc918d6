"""The loss of KTO, by numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from workbench.objectives.kto import balance, kto_losses, mismatched_divergence


def test_wanted_and_unwanted_rows_mirror_each_other_around_the_divergence():
    # beta (h - z) = 0.1 (12 - 2) = 1: 1 - sigmoid(1) = 0.268941 where wanted, sigmoid(1) = 0.731059 where not.
    ratios, wanted = torch.tensor([12.0, 12.0, 2.0]), torch.tensor([True, False, True])
    found = kto_losses(ratios, wanted, torch.tensor(2.0), beta=0.1).tolist()
    assert found == pytest.approx([0.268941421, 0.731058579, 0.5])
    weighted = kto_losses(ratios, wanted, torch.tensor(2.0), beta=0.1, desirable_weight=2.0, undesirable_weight=3.0)
    assert weighted.tolist() == pytest.approx([0.537882842, 2.193175736, 1.0])


def test_the_gradient_raises_what_is_wanted_and_lowers_what_is_not():
    ratios = torch.zeros(2, requires_grad=True)
    kto_losses(ratios, torch.tensor([True, False]), torch.tensor(0.0), beta=0.1).sum().backward()
    assert ratios.grad.tolist() == pytest.approx([-0.025, 0.025])


def test_the_divergence_is_a_mean_that_is_never_negative():
    assert [mismatched_divergence(*pair) for pair in ((6.0, 4), (-6.0, 4), (0.0, 0))] == [1.5, 0.0, 0.0]


def test_balance_is_of_weights_times_rows():
    assert balance(100, 300, 4.0, 1.0) == pytest.approx(4 / 3)
