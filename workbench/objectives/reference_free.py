"""Pairwise preference losses of the policy alone (ORPO, SimPO, CPO), which need no reference, as pure functions.

w chosen, l rejected; pi: log-probability summed over a completion; m: its mean a token. B pairs, nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workbench.objectives.late_torch import torch
from workbench.objectives.options import Options

NEAREST_TO_ONE = -1e-6
"""Mean log-probability that odds are taken of at most: nearer to 0 the gradient of log(1 - e^x) is not a number."""


@dataclass(frozen=True)
class PairSums:
    """Log-probabilities of the policy, summed over each completion (B,), nats; and the lengths (B,), tokens."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_lengths: torch.Tensor
    rejected_lengths: torch.Tensor

    @property
    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean log-probability of a token, for chosen and rejected completions."""
        return self.chosen / self.chosen_lengths, self.rejected / self.rejected_lengths


def log1mexp(logprobs: torch.Tensor) -> torch.Tensor:
    """log(1 - e^x) of x < 0, by whichever form loses no digits (Maechler 2012, eq. 7)."""
    return torch.where(
        logprobs < -0.6931471805599453, torch.log1p(-torch.exp(logprobs)), torch.log(-torch.expm1(logprobs))
    )


def log_odds(means: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of p = e^means, the mean log-probability a token (ORPO, eq. 4). (B,)"""
    held = means.clamp(max=NEAREST_TO_ONE)
    return held - log1mexp(held)


def log_odds_ratio(pairs: PairSums) -> torch.Tensor:
    """Log odds of chosen minus those of rejected (Hong et al. 2024, arXiv 2403.07691, eq. 5). (B,)"""
    chosen, rejected = (log_odds(means) for means in pairs.means)
    return chosen - rejected


def alpha_reward(means: torch.Tensor, alpha: float) -> torch.Tensor:
    """(1 - p^-alpha) / alpha of p = e^means, which is means where alpha is 0 (AlphaPO, arXiv 2501.03884). (B,)"""
    return -torch.expm1(-alpha * means) / alpha if alpha else means


def margin_loss(margins: torch.Tensor, target: float = 0.0) -> torch.Tensor:
    """-log sigmoid(margin - target): the loss of SimPO (Meng et al. 2024, arXiv 2405.14734, eq. 6), whose target gamma
    stands outside of beta, and without a target that of ORPO's odds (eq. 7). (B,)"""
    return -torch.nn.functional.logsigmoid(margins - target)


CPOLoss = Callable[[PairSums, float], "torch.Tensor"]
"""fn(pairs, beta) -> (B,)."""
CPO_LOSSES: Options[CPOLoss] = Options("pairwise loss")


@CPO_LOSSES.option("sigmoid", "−log σ(β (π_w − π_l))", paper="Xu et al. 2024, arXiv 2401.08417, eq. 3")
def sigmoid(pairs: PairSums, beta: float) -> torch.Tensor:
    """DPO's loss, with the same reference log-probability for every completion."""
    return margin_loss(beta * (pairs.chosen - pairs.rejected))


@CPO_LOSSES.option("hinge", "max(0, 1 − β (π_w − π_l))", paper="SLiC, arXiv 2305.10425")
def hinge(pairs: PairSums, beta: float) -> torch.Tensor:
    """The loss of SLiC."""
    return torch.relu(1 - beta * (pairs.chosen - pairs.rejected))
