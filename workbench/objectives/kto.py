"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306) as pure functions. B rows, nats."""

from __future__ import annotations

import torch

MOST_BALANCED = 4 / 3
"""The greatest weight of all wanted rows over that of all unwanted ones that the paper advises."""


def kto_losses(
    logratios: torch.Tensor,
    desirable: torch.Tensor,
    divergence: torch.Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """Loss of each row (eq. 7 and 8): w (1 - sigmoid(beta (h - z))) of a wanted completion, and
    w (1 - sigmoid(beta (z - h))) of an unwanted one.

    logratios h: (B,) policy minus reference, summed over each completion. desirable: (B,) bool. divergence z: (B,) or
    (), a constant of the step. Returns (B,), between 0 and the weight.
    """
    signs = torch.where(desirable, 1.0, -1.0).to(logratios.dtype)
    weights = torch.where(desirable, desirable_weight, undesirable_weight).to(logratios.dtype)
    return weights * torch.sigmoid(-beta * signs * (logratios - divergence))


def mismatched_divergence(total: float, count: int) -> float:
    """The estimate z of KL(policy || reference): the mean log ratio of completions that follow another prompt than
    their own, held at or above 0. total: the sum of the log ratios; 0 where there are none."""
    return max(total / count, 0.0) if count else 0.0


def balance(desirable: int, undesirable: int, desirable_weight: float, undesirable_weight: float) -> float:
    """Weight of all wanted rows over that of all unwanted ones: the paper advises 1 to MOST_BALANCED (eq. 8)."""
    return desirable_weight * desirable / (undesirable_weight * undesirable)
