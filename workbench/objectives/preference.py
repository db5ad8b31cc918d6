"""Pairwise preference losses (DPO and relatives) as pure functions, looked up by name once.

h = (pi_w - ref_w) - (pi_l - ref_l), of log-probabilities summed over the completion; w chosen, l rejected. B pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PairLogratios:
    """Policy minus reference, summed over each completion (B,), nats; and the completions' lengths (B,), tokens."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_lengths: torch.Tensor
    rejected_lengths: torch.Tensor

    @property
    def h(self) -> torch.Tensor:
        return self.chosen - self.rejected


PreferenceLoss = Callable[[PairLogratios, float, float], torch.Tensor]
"""fn(pairs, beta, label_smoothing) -> (B,); only cdpo and robust look at label_smoothing."""


def _log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(x)


def sigmoid(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """-log sigmoid(beta h) (Rafailov et al. 2023, arXiv 2305.18290, eq. 7)."""
    return -_log_sigmoid(beta * pairs.h)


def cdpo(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """(1 - e) l(h) + e l(-h): conservative DPO, for labels flipped with probability e (Mitchell 2023)."""
    x = beta * pairs.h
    return -(1 - label_smoothing) * _log_sigmoid(x) - label_smoothing * _log_sigmoid(-x)


def robust(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """((1 - e) l(h) - e l(-h)) / (1 - 2e) (arXiv 2403.00409). Unbounded below: a negative loss is not divergence."""
    x = beta * pairs.h
    loss = -(1 - label_smoothing) * _log_sigmoid(x) + label_smoothing * _log_sigmoid(-x)
    return loss / (1 - 2 * label_smoothing)


def ipo(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """(h' - 1/(2 beta))^2 with each side averaged over its tokens, as TRL has it (the paper sums: ipo_sum)."""
    h = pairs.chosen / pairs.chosen_lengths - pairs.rejected / pairs.rejected_lengths
    return (h - 1 / (2 * beta)).square()


def ipo_sum(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """(h - 1/(2 beta))^2 (arXiv 2310.12036, eq. 17)."""
    return (pairs.h - 1 / (2 * beta)).square()


def hinge(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """relu(1 - beta h) (SLiC, arXiv 2305.10425, on log ratios)."""
    return torch.relu(1 - beta * pairs.h)


PREFERENCE_LOSSES: dict[str, PreferenceLoss] = {
    "sigmoid": sigmoid,
    "cdpo": cdpo,
    "robust": robust,
    "ipo": ipo,
    "ipo_sum": ipo_sum,
    "hinge": hinge,
}
