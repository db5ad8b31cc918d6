"""The reference that moves towards the policy: its average, whatever the precision of the weights."""

from __future__ import annotations

import copy

import pytest
import torch

from workbench.models.reference import FrozenReference


def moving_reference(policy):
    reference = FrozenReference(None, torch.device("cpu"), moves=True)
    reference.follow(policy)
    with reference.scoring():
        pass
    return reference


def linear(value, dtype):
    layer = torch.nn.Linear(2, 1, bias=False, dtype=dtype)
    torch.nn.init.constant_(layer.weight, value)
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_moves_by_a_small_weight_arrive_where_their_sum_leads(dtype):
    policy = linear(1.0, dtype)
    reference = moving_reference(policy)
    torch.nn.init.constant_(policy.weight, 2.0)
    for _ in range(1000):
        reference.move(0.001)  # in bf16 no number lies between 1 and 1.0078, and each move alone rounds to none
    expected = torch.tensor(1 + (1 - 0.999**1000), dtype=dtype).item()  # 1.6323
    assert reference.model.weight.dtype == dtype
    assert reference.model.weight.tolist() == [[pytest.approx(expected, rel=1e-5)] * 2]


def test_a_reference_that_goes_on_from_a_checkpoint_moves_to_the_same_bits():
    policy = linear(1.0, torch.bfloat16)
    reference, start = moving_reference(policy), copy.deepcopy(policy)
    torch.nn.init.constant_(policy.weight, 2.0)
    for _ in range(3):
        reference.move(0.001)
    state = copy.deepcopy(reference.state_dict())
    resumed = FrozenReference(None, torch.device("cpu"), moves=True)
    resumed.follow(start)
    resumed.load_state_dict(state)
    resumed.follow(policy)
    for each in (reference, resumed):
        for _ in range(5):
            each.move(0.001)
    torch.testing.assert_close(resumed.state_dict(), reference.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.model.weight, reference.model.weight, rtol=0, atol=0)
