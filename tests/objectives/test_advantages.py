"""Advantages of completions within their group, and generalised advantage estimation, by hand."""

from __future__ import annotations

import pytest
import torch

from workbench.objectives.advantages import (
    ADVANTAGES,
    generalised_advantages,
    group_spread,
    normalised_rloo,
    returns_to_go,
    token_rewards,
)

# Two groups, not side by side: {1, 0, 0, 1} (mean 1/2, std 3 ** -0.5) and {3, 5} (mean 4, std 2 ** 0.5).
REWARDS = torch.tensor([1.0, 3.0, 0.0, 0.0, 5.0, 1.0])
GROUPS = torch.tensor([7, -2, 7, 7, -2, 7])
COMPARING = [name for name in ADVANTAGES if name != "reinforce_plus_plus"]
"""Advantages that compare completions of one prompt."""
ALL_STD = (REWARDS.double() - 10 / 6).square().sum().div(5).sqrt().item()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean_only", [0.5, -1.0, -0.5, -0.5, 1.0, 0.5]),
        ("rloo", [0.5 * 4 / 3, -2.0, -0.5 * 4 / 3, -0.5 * 4 / 3, 2.0, 0.5 * 4 / 3]),
        (
            "group_std",
            [x / (3**-0.5 + 1e-4) if abs(x) < 1 else x / (2**0.5 + 1e-4) for x in (0.5, -1, -0.5, -0.5, 1, 0.5)],
        ),
        ("batch_std", [x / (ALL_STD + 1e-4) for x in (0.5, -1.0, -0.5, -0.5, 1.0, 0.5)]),
        ("reinforce_plus_plus_baseline", [x / (0.6**0.5 + 1e-4) for x in (0.5, -1.0, -0.5, -0.5, 1.0, 0.5)]),
        ("reinforce_plus_plus", [(x - 10 / 6) / (ALL_STD + 1e-4) for x in (1, 3, 0, 0, 5, 1)]),
    ],
)  # fmt: skip
def test_known_values(name, expected):
    assert ADVANTAGES[name](REWARDS, GROUPS).tolist() == pytest.approx(expected, rel=1e-9)


def test_every_advantage_has_a_known_value():
    tested = {"mean_only", "rloo", "group_std", "batch_std", "reinforce_plus_plus", "reinforce_plus_plus_baseline"}
    assert set(ADVANTAGES) == tested


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reward", [0.7, 0.1, 1 / 3, -1e6 / 3, 0.0])
@pytest.mark.parametrize("number", [2, 3, 7])
@pytest.mark.parametrize("name", ADVANTAGES)
def test_equal_rewards_give_exactly_zero_advantage(name, number, reward, dtype):
    rewards = torch.full((number,), reward, dtype=dtype)
    assert ADVANTAGES[name](rewards, torch.zeros(number, dtype=torch.long)).tolist() == [0.0] * number


@pytest.mark.parametrize("name", COMPARING)
def test_a_group_of_equal_rewards_beside_another_gives_exactly_zero_advantage(name):
    rewards, groups = torch.tensor([0.7] * 7 + [0.0, 1.0]), torch.tensor([0] * 7 + [1, 1])
    advantages = ADVANTAGES[name](rewards, groups)
    assert advantages[:7].tolist() == [0.0] * 7
    assert (advantages[7:] != 0).all()


@pytest.mark.parametrize("name", COMPARING)
def test_a_group_of_one_gives_exactly_zero_advantage(name):
    advantages = ADVANTAGES[name](torch.tensor([0.3, 0.1, 0.9]), torch.tensor([5, 1, 1]))
    assert advantages[0] == 0.0
    assert (advantages[1:] != 0).all()


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_single_completion_gives_exactly_zero_advantage(name):
    assert ADVANTAGES[name](torch.tensor([0.3]), torch.tensor([0])).tolist() == [0.0]


@pytest.mark.parametrize("name", ADVANTAGES)
def test_the_order_of_completions_does_not_matter(name):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        ADVANTAGES[name](REWARDS[order], GROUPS[order]), ADVANTAGES[name](REWARDS, GROUPS)[order]
    )


def test_the_spread_of_each_group_and_whether_it_has_none():
    spread, equal = group_spread(torch.tensor([1.0, 3.0, 0.7, 0.7, 0.7, 9.0]), torch.tensor([4, 4, 6, 6, 6, 8]))
    assert spread.tolist() == pytest.approx([2**0.5, 0.0, 0.0])
    assert equal.tolist() == [False, True, True]


# Generalised advantage estimation.


def advantages_of(rewards, values, mask=None, gamma=0.9, lambda_=0.95, bootstrap=None):
    rewards, values = (torch.tensor(part, dtype=torch.float64) for part in (rewards, values))
    mask = torch.ones_like(rewards, dtype=torch.bool) if mask is None else torch.tensor(mask).bool()
    bootstrap = None if bootstrap is None else torch.tensor(bootstrap, dtype=torch.float64)
    return generalised_advantages(rewards, values, mask, gamma=gamma, lambda_=lambda_, bootstrap=bootstrap)


def test_gae_known_values():
    found = advantages_of([[0.0, 0.0, 0.0, 1.0]], [[0.0, 0.0, 0.0, 1.0]])
    assert found[0].tolist() == pytest.approx([0.6579225, 0.7695, 0.9, 0.0], abs=1e-12)


def test_a_bootstrap_follows_the_last_real_token():
    # A_1 = 0 + .9 x 10 - 1 = 8; A_0 = (0 + .9 x 1 - 2) + .855 x 8 = 5.74; padding follows.
    found = advantages_of([[0.0, 0.0, 5.0]], [[2.0, 1.0, 7.0]], [[1, 1, 0]], bootstrap=[10.0])
    assert found[0].tolist() == pytest.approx([5.74, 8.0, 0.0], abs=1e-12)


def test_without_bootstrap_a_scored_truncated_row_ends_as_one_that_ended():
    # A_1 = 3 - 1 = 2; A_0 = (.9 x 1 - 2) + .855 x 2 = .61.
    assert advantages_of([[0.0, 3.0]], [[2.0, 1.0]])[0].tolist() == pytest.approx([0.61, 2.0], abs=1e-12)


def test_padding_moves_no_advantage_whatever_it_holds():
    rewards, values = [[0.1, -0.2, 1.0], [0.5, 9.0, 9.0]], [[0.3, 0.2, 0.1], [0.4, 9.0, 9.0]]
    found = advantages_of(rewards, values, [[1, 1, 1], [1, 0, 0]])
    torch.testing.assert_close(found[:1], advantages_of(rewards[:1], values[:1]))
    assert found[1].tolist() == pytest.approx([0.1, 0.0, 0.0], abs=1e-12)


def test_lambda_one_is_the_return_less_the_value_and_lambda_zero_one_step():
    rewards, values = [[1.0, 2.0, 4.0]], [[0.5, 0.25, 3.0]]
    assert advantages_of(rewards, values, lambda_=1.0)[0].tolist() == pytest.approx(
        [1 + 0.9 * 2 + 0.81 * 4 - 0.5, 2 + 0.9 * 4 - 0.25, 1.0]
    )
    assert advantages_of(rewards, values, lambda_=0.0)[0].tolist() == pytest.approx(
        [1 + 0.9 * 0.25 - 0.5, 2 + 0.9 * 3 - 0.25, 1.0]
    )


def test_rloo_normalised_over_the_batch_by_hand():
    """Of {1, 0, 0, 1} and {3, 5}: squares 4/9 four times and 4 twice, over six completions less one."""
    values = [2 / 3, -2.0, -2 / 3, -2 / 3, 2.0, 2 / 3]
    expected = [value / ((88 / 45) ** 0.5 + 1e-4) for value in values]
    assert normalised_rloo(REWARDS, GROUPS).tolist() == pytest.approx(expected, rel=1e-9)
    assert (
        normalised_rloo(torch.tensor([0.7] * 7 + [0.0, 1.0]), torch.tensor([0] * 7 + [1, 1]))[:7].tolist() == [0.0] * 7
    )


def test_what_follows_a_token_is_its_reward_and_the_discounted_ones_after_it():
    """Scores 1 and 2, of two tokens and of three; the penalties are a KL times its coefficient."""
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    penalties = torch.tensor([[0.5, 0.25, 0.0], [0.0, -0.5, 1.0]])
    rewards = token_rewards(torch.tensor([1.0, 2.0]), penalties, mask)
    assert rewards.tolist() == [[-0.5, 0.75, 0.0], [0.0, 0.5, 1.0]]
    assert returns_to_go(rewards, mask, gamma=1.0).tolist() == [[0.25, 0.75, 0.0], [1.5, 1.5, 1.0]]
    assert returns_to_go(rewards, mask, gamma=0.5).tolist() == [[-0.125, 0.75, 0.0], [0.5, 1.0, 1.0]]
