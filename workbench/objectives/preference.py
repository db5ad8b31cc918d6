"""Pairwise preference losses (DPO and relatives) as pure functions, looked up by name once.

h = (pi_w - ref_w) - (pi_l - ref_l), of log-probabilities summed over the completion; w chosen, l rejected. B pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workbench.objectives.late_torch import torch
from workbench.objectives.options import Options


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


PreferenceLoss = Callable[[PairLogratios, float, float], "torch.Tensor"]
"""fn(pairs, beta, label_smoothing) -> (B,)."""
PREFERENCE_LOSSES: Options[PreferenceLoss] = Options("pairwise loss")


def _log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(x)


@PREFERENCE_LOSSES.option("sigmoid", "−log σ(β h)", paper="Rafailov et al. 2023, arXiv 2305.18290, eq. 7")
def sigmoid(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """The loss of DPO."""
    return -_log_sigmoid(beta * pairs.h)


@PREFERENCE_LOSSES.option(
    "cdpo",
    "−(1 − e) log σ(β h) − e log σ(−β h), e = label_smoothing",
    paper="Mitchell 2023",
    reads=("label_smoothing",),
)
def cdpo(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """Conservative DPO, for labels that are flipped with probability e."""
    x = beta * pairs.h
    return -(1 - label_smoothing) * _log_sigmoid(x) - label_smoothing * _log_sigmoid(-x)


@PREFERENCE_LOSSES.option(
    "robust",
    "(−(1 − e) log σ(β h) + e log σ(−β h)) / (1 − 2e), e = label_smoothing; may be negative",
    paper="Chowdhury et al. 2024, arXiv 2403.00409",
    reads=("label_smoothing",),
)
def robust(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """Unbiased under flipped labels. It is unbounded below: a negative loss is not divergence."""
    x = beta * pairs.h
    loss = -(1 - label_smoothing) * _log_sigmoid(x) + label_smoothing * _log_sigmoid(-x)
    return loss / (1 - 2 * label_smoothing)


@PREFERENCE_LOSSES.option(
    "ipo",
    "(h' − 1/(2β))², h' from log-probabilities averaged over each completion's tokens",
    paper="Azar et al. 2023, arXiv 2310.12036, averaged as in TRL",
    conventions={"log-probabilities of a completion": "averaged over its tokens in the loss; summed in every metric"},
)
def ipo(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """The squared distance from a margin that beta sets, each side averaged (the paper sums: ipo_sum)."""
    h = pairs.chosen / pairs.chosen_lengths - pairs.rejected / pairs.rejected_lengths
    return (h - 1 / (2 * beta)).square()


@PREFERENCE_LOSSES.option(
    "ipo_sum", "(h − 1/(2β))², the paper's form", paper="Azar et al. 2023, arXiv 2310.12036, eq. 17"
)
def ipo_sum(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """The squared distance from that margin, each side summed over its completion."""
    return (pairs.h - 1 / (2 * beta)).square()


@PREFERENCE_LOSSES.option("hinge", "max(0, 1 − β h)", paper="SLiC, arXiv 2305.10425, on log ratios")
def hinge(pairs: PairLogratios, beta: float, label_smoothing: float) -> torch.Tensor:
    """The loss of SLiC."""
    return torch.relu(1 - beta * pairs.h)
