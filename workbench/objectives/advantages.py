"""Advantages of whole completions from their rewards, as pure functions looked up by name once; GAE for critics.

Letters: N completions, B rows, T positions. A group is the completions of one prompt; groups: (N,) int64, any numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from workbench.objectives.late_torch import torch
from workbench.objectives.options import Options

EPSILON = 1e-4
"""Added to a standard deviation before it divides, as in TRL."""

AdvantageFunction = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""fn(rewards, groups) -> advantages, all (N,); the whole step's, over all processes."""
ADVANTAGES: Options[AdvantageFunction] = Options("advantages")


@ADVANTAGES.option(
    "group_std",
    "(reward − mean of its prompt's completions) / (their standard deviation + 0.0001)",
    paper="Shao et al. 2024, arXiv 2402.03300, sec. 4.1.2",
)
def group_std(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """GRPO's, with a Bessel-corrected standard deviation."""
    centred, index, sizes = _centred(rewards, groups)
    squares = torch.zeros_like(sizes).index_add_(0, index, centred.square())
    return centred / ((squares / (sizes - 1).clamp(min=1)).sqrt()[index] + EPSILON)


@ADVANTAGES.option(
    "batch_std",
    "(reward − mean of its prompt's completions) / (standard deviation of all rewards + 0.0001)",
    paper="Hu et al. 2025, arXiv 2508.08221",
)
def batch_std(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """A baseline of the group, a scale of the whole batch."""
    centred, _, _ = _centred(rewards, groups)
    return centred / (_std(rewards.to(centred.dtype)) + EPSILON)


@ADVANTAGES.option("mean_only", "reward − mean of its prompt's completions", paper="Liu et al. 2025, arXiv 2503.20783")
def mean_only(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Dr. GRPO's, without the difficulty bias of a division."""
    return _centred(rewards, groups)[0]


@ADVANTAGES.option(
    "rloo", "reward − mean of its prompt's other completions", paper="Ahmadian et al. 2024, arXiv 2402.14740"
)
def rloo(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Leave one out, computed as G/(G-1) (r - mean_g)."""
    centred, index, sizes = _centred(rewards, groups)
    return centred * (sizes / (sizes - 1).clamp(min=1))[index]


@ADVANTAGES.option(
    "reinforce_plus_plus",
    "(reward − mean of all) / (standard deviation of all + 0.0001)",
    paper="Hu 2025, arXiv 2501.03262",
)
def reinforce_plus_plus(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Normalises over the whole batch, without a baseline of the group."""
    values = rewards.double()
    if bool(values.max() == values.min()):
        return torch.zeros_like(values)
    return (values - values.mean()) / (_std(values) + EPSILON)


@ADVANTAGES.option(
    "reinforce_plus_plus_baseline",
    "(reward − mean of its prompt's completions) / (standard deviation of all these differences + 0.0001)",
    paper="Hu 2025, arXiv 2501.03262, REINFORCE++ with baseline",
)
def reinforce_plus_plus_baseline(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """A baseline of the group, normalised over the whole batch by what the baseline leaves."""
    centred, _, _ = _centred(rewards, groups)
    return centred / (_std(centred) + EPSILON)


def normalised_rloo(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The advantages of `rloo`, whose mean is 0, with standard deviation 1 over the whole batch."""
    advantages = rloo(rewards, groups)
    return advantages / (_std(advantages) + EPSILON)


def group_spread(rewards: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each group's Bessel-corrected standard deviation (0 for a group of one), and whether its rewards are equal."""
    centred, index, sizes = _centred(rewards, groups)
    squares = torch.zeros_like(sizes).index_add_(0, index, centred.square())
    return (squares / (sizes - 1).clamp(min=1)).sqrt(), ~_differs(rewards, index, len(sizes))


def token_rewards(scores: torch.Tensor, penalties: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Each token's reward: its penalty taken away, and the completion's score on its last token, never on padding.

    scores: (B,). penalties: (B, T), 0 at padding; its dtype is the result's. mask: (B, T), real tokens, from the left.
    """
    rewards = -penalties
    rewards[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1] += scores.to(rewards.dtype)
    return rewards


def returns_to_go(rewards: torch.Tensor, mask: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """What each token's reward and those after it add up to: sum over s >= t of gamma^(s-t) r_s; (B, T), 0 at padding.

    rewards: (B, T). mask: (B, T), real tokens, from the left.
    """
    return generalised_advantages(rewards, torch.zeros_like(rewards), mask, gamma=gamma, lambda_=1.0)


def generalised_advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    *,
    gamma: float,
    lambda_: float,
    bootstrap: torch.Tensor | None = None,
) -> torch.Tensor:
    """GAE: delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1} (Schulman 2016, arXiv 1506.02438).

    rewards, values: (B, T), V_t the value of the state *before* token t. mask: (B, T), real tokens, from the left.
    bootstrap: (B,) value after each row's last token; None: 0. Returns (B, T), 0 at padding.
    """
    rows, width = rewards.shape
    lasts = mask.sum(1) - 1
    advantages = torch.zeros_like(rewards)
    following, next_value = rewards.new_zeros(rows), rewards.new_zeros(rows)
    for position in reversed(range(width)):
        if bootstrap is not None:
            next_value = torch.where(lasts == position, bootstrap, next_value)
        delta = rewards[:, position] + gamma * next_value - values[:, position]
        real = mask[:, position].bool()
        following = torch.where(real, delta + gamma * lambda_ * following, 0.0)
        next_value = torch.where(real, values[:, position], 0.0)
        advantages[:, position] = following
    return advantages


def _centred(rewards: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """r - mean_g, exactly 0 where a group's rewards are all equal: float noise over a tiny std would be a signal. Then
    each completion's group as 0, 1, ... and the groups' sizes, float64."""
    values = rewards.double()
    _, index = groups.unique(return_inverse=True)
    sizes = torch.bincount(index).to(values)
    means = torch.zeros_like(sizes).index_add_(0, index, values) / sizes
    differs = _differs(values, index, len(sizes))
    return torch.where(differs[index], values - means[index], 0.0), index, sizes


def _differs(values: torch.Tensor, index: torch.Tensor, num_groups: int) -> torch.Tensor:
    highest = values.new_full((num_groups,), -torch.inf).scatter_reduce(0, index, values, "amax")
    lowest = values.new_full((num_groups,), torch.inf).scatter_reduce(0, index, values, "amin")
    return highest != lowest


def _std(values: torch.Tensor) -> torch.Tensor:
    return values.std() if len(values) > 1 else values.new_zeros(())
