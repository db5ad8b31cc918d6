"""Pairwise preference losses (DPO and relatives) as pure functions, looked up by name once.

h = (pi_w - ref_w) - (pi_l - ref_l), of log-probabilities summed over the completion; w chosen, l rejected; r = beta
(pi - ref), a completion's implicit reward. B pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from workbench.objectives.late_torch import torch
from workbench.objectives.options import Options


@dataclass(frozen=True)
class PairLogratios:
    """Policy minus reference, summed over each completion (B,), nats; and the completions' lengths (B,), tokens."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_lengths: torch.Tensor
    rejected_lengths: torch.Tensor
    ref_margins: torch.Tensor
    """The reference's log-probability of chosen less that of rejected (B,), nats."""
    reward_shift: float = 0.0
    """What bco_pair takes off every implicit reward: the mean of those seen so far."""

    @property
    def h(self) -> torch.Tensor:
        return self.chosen - self.rejected


@dataclass(frozen=True)
class Tuning:
    """What the losses are set by, as the settings of these names say."""

    beta: float
    label_smoothing: float = 0.0
    discopop_tau: float = 0.05


PreferenceLoss = Callable[[PairLogratios, Tuning], "torch.Tensor"]
"""fn(pairs, tuning) -> (B,)."""
PREFERENCE_LOSSES: Options[PreferenceLoss] = Options("pairwise loss", weighted=True)
DIVERGED = ("divergence",)
"""Read by the losses that are a function of a difference of two scores, whatever divergence gives them."""


def _log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(x)


def _smoothed(x: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """−log σ(x), and with probability label_smoothing that of the flipped label."""
    return -(1 - label_smoothing) * _log_sigmoid(x) - label_smoothing * _log_sigmoid(-x)


def _averaged_h(pairs: PairLogratios) -> torch.Tensor:
    return pairs.chosen / pairs.chosen_lengths - pairs.rejected / pairs.rejected_lengths


AVERAGED = {"log-probabilities of a completion": "averaged over its tokens in the loss; summed in every metric"}


@PREFERENCE_LOSSES.option(
    "sigmoid", "−log σ(β h)", paper="Rafailov et al. 2023, arXiv 2305.18290, eq. 7", reads=DIVERGED
)
def sigmoid(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """The loss of DPO."""
    return -_log_sigmoid(tuning.beta * pairs.h)


@PREFERENCE_LOSSES.option(
    "cdpo",
    "−(1 − e) log σ(β h) − e log σ(−β h), e = label_smoothing",
    paper="Mitchell 2023",
    reads=("label_smoothing", *DIVERGED),
    requires=("label_smoothing",),
)
def cdpo(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """Conservative DPO, for labels that are flipped with probability e."""
    return _smoothed(tuning.beta * pairs.h, tuning.label_smoothing)


@PREFERENCE_LOSSES.option(
    "robust",
    "(−(1 − e) log σ(β h) + e log σ(−β h)) / (1 − 2e), e = label_smoothing; may be negative",
    paper="Chowdhury et al. 2024, arXiv 2403.00409",
    reads=("label_smoothing", *DIVERGED),
    requires=("label_smoothing",),
)
def robust(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """Unbiased under flipped labels. It is unbounded below: a negative loss is not divergence."""
    x, flipped = tuning.beta * pairs.h, tuning.label_smoothing
    loss = -(1 - flipped) * _log_sigmoid(x) + flipped * _log_sigmoid(-x)
    return loss / (1 - 2 * flipped)


@PREFERENCE_LOSSES.option(
    "ipo",
    "(h' − 1/(2β))², h' from log-probabilities averaged over each completion's tokens",
    paper="Azar et al. 2023, arXiv 2310.12036, averaged as in TRL",
    reads=DIVERGED,
    conventions=AVERAGED,
)
def ipo(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """The squared distance from a margin that beta sets, each side averaged (the paper sums: ipo_sum)."""
    return (_averaged_h(pairs) - 1 / (2 * tuning.beta)).square()


@PREFERENCE_LOSSES.option(
    "ipo_sum", "(h − 1/(2β))², the paper's form", paper="Azar et al. 2023, arXiv 2310.12036, eq. 17", reads=DIVERGED
)
def ipo_sum(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """The squared distance from that margin, each side summed over its completion."""
    return (pairs.h - 1 / (2 * tuning.beta)).square()


@PREFERENCE_LOSSES.option("hinge", "max(0, 1 − β h)", paper="SLiC, arXiv 2305.10425, on log ratios", reads=DIVERGED)
def hinge(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """The loss of SLiC."""
    return torch.relu(1 - tuning.beta * pairs.h)


@PREFERENCE_LOSSES.option(
    "sigmoid_norm",
    "−log σ(β h'), h' from log-probabilities averaged over each completion's tokens",
    paper="Lambert et al. 2024 (Tulu 3), arXiv 2411.15124, eq. 6",
    reads=DIVERGED,
    conventions=AVERAGED,
)
def sigmoid_norm(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """The loss of DPO on averages, so that length gives no margin. Its beta is some ten times that of sigmoid."""
    return -_log_sigmoid(tuning.beta * _averaged_h(pairs))


@PREFERENCE_LOSSES.option(
    "exo_pair",
    "KL(q || p), q = (σ(β h), σ(−β h)), p = (1 − e, e), e = label_smoothing (its paper: 1e-3)",
    paper="Ji et al. 2024, arXiv 2402.00856, eq. 16",
    reads=("label_smoothing", *DIVERGED),
    requires=("label_smoothing",),
)
def exo_pair(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """The reverse KL from the policy's preference to the label's. At e = 0 it is infinite: settings refuse that."""
    x, flipped = tuning.beta * pairs.h, tuning.label_smoothing
    right = torch.sigmoid(x) * (_log_sigmoid(x) - math.log1p(-flipped))
    return right + torch.sigmoid(-x) * (_log_sigmoid(-x) - math.log(flipped))


@PREFERENCE_LOSSES.option(
    "nca_pair",
    "−log σ(r_w) − ½ log σ(−r_w) − ½ log σ(−r_l)",
    paper="Chen et al. 2024, arXiv 2402.05369",
)
def nca_pair(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """Noise-contrastive alignment: the chosen completion's own likelihood is held up, beside the difference."""
    chosen, rejected = tuning.beta * pairs.chosen, tuning.beta * pairs.rejected
    return -_log_sigmoid(chosen) - 0.5 * _log_sigmoid(-chosen) - 0.5 * _log_sigmoid(-rejected)


@PREFERENCE_LOSSES.option(
    "bco_pair",
    "−log σ(r_w − δ) − log σ(−(r_l − δ)), δ the mean of all rewards r so far",
    paper="Jung et al. 2024, arXiv 2404.04656",
    over_step=True,
    conventions={
        "reward shift": "the mean of beta (policy - reference) over all completions learned from so far, this step's "
        "among them, each counted as it was in its own step; held-out pairs do not move it"
    },
)
def bco_pair(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """Binary classifier optimisation on pairs. TRL 1.16's has no shift: that is bco_pair_unshifted."""
    chosen, rejected = tuning.beta * pairs.chosen, tuning.beta * pairs.rejected
    return -_log_sigmoid(chosen - pairs.reward_shift) - _log_sigmoid(pairs.reward_shift - rejected)


@PREFERENCE_LOSSES.option(
    "bco_pair_unshifted", "−log σ(r_w) − log σ(−r_l), without the paper's shift", paper="bco_pair of TRL 1.16"
)
def bco_pair_unshifted(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """Binary classification of each completion on its own, at the threshold 0."""
    return -_log_sigmoid(tuning.beta * pairs.chosen) - _log_sigmoid(-tuning.beta * pairs.rejected)


@PREFERENCE_LOSSES.option(
    "sppo_hard",
    "(a − 1/(2β))² + (b + 1/(2β))², a and b the log ratios of chosen and rejected",
    paper="Wu et al. 2024, arXiv 2405.00675, eq. 4.7 with P = 1 and 0",
)
def sppo_hard(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """Self-play preference optimisation with the label for certain; the paper has probabilities of a judge there."""
    target = 1 / (2 * tuning.beta)
    return (pairs.chosen - target).square() + (pairs.rejected + target).square()


@PREFERENCE_LOSSES.option("apo_zero", "1 − σ(r_w) + σ(r_l)", paper="D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7")
def apo_zero(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """Raises the chosen completion and lowers the rejected one: where the chosen are better than the policy's own."""
    return 1 - torch.sigmoid(tuning.beta * pairs.chosen) + torch.sigmoid(tuning.beta * pairs.rejected)


@PREFERENCE_LOSSES.option("apo_down", "σ(r_w) + 1 − σ(β h)", paper="D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 8")
def apo_down(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """Lowers both completions, the rejected one more: where the policy's own are better than the chosen."""
    return torch.sigmoid(tuning.beta * pairs.chosen) + 1 - torch.sigmoid(tuning.beta * pairs.h)


@PREFERENCE_LOSSES.option(
    "aot",
    "−log σ(β d) of the k-th smallest margins, d = sorted(π_w − π_l) − sorted(ref_w − ref_l), smoothed by "
    "label_smoothing",
    paper="Melnyk et al. 2024, arXiv 2406.05882",
    reads=("label_smoothing",),
    over_step=True,
    conventions={"sorting": "over all pairs of a step (TRL sorts each micro-batch of each process by itself)"},
)
def aot(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """Alignment by optimal transport, paired: the policy's margins, as a distribution, are to lie above the
    reference's. A pair has the value of its rank among the policy's."""
    margins = (pairs.h + pairs.ref_margins).sort()
    difference = margins.values - pairs.ref_margins.sort().values
    return _smoothed(tuning.beta * difference, tuning.label_smoothing)[margins.indices.argsort()]


@PREFERENCE_LOSSES.option(
    "aot_unpaired",
    "−log σ(β d), d = sorted(π_w − ref_w) − sorted(π_l − ref_l), smoothed by label_smoothing",
    paper="Melnyk et al. 2024, arXiv 2406.05882",
    reads=("label_smoothing",),
    over_step=True,
    conventions={"sorting": "over all pairs of a step (TRL sorts each micro-batch of each process by itself)"},
)
def aot_unpaired(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """The same of chosen and rejected log ratios, whichever prompts they are of. A pair has the value of its chosen
    completion's rank."""
    chosen = pairs.chosen.sort()
    difference = chosen.values - pairs.rejected.sort().values
    return _smoothed(tuning.beta * difference, tuning.label_smoothing)[chosen.indices.argsort()]


@PREFERENCE_LOSSES.option(
    "discopop",
    "−(1 − m) log σ(β h) + m e^−βh, m = σ(β h/τ), τ = discopop_tau",
    paper="Lu et al. 2024, arXiv 2406.08414, eq. 5",
    reads=("discopop_tau", *DIVERGED),
)
def discopop(pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """The log-ratio modulated loss that a language model found. It falls towards h < 0 from 0, where its gradient is of
    the other sign. The product of m and the exponential is taken in logs: TRL's is NaN far below 0."""
    x = tuning.beta * pairs.h
    m = torch.sigmoid(x / tuning.discopop_tau)
    return -(1 - m) * _log_sigmoid(x) + torch.exp(_log_sigmoid(x / tuning.discopop_tau) - x)


def linearised(loss: PreferenceLoss, pairs: PairLogratios, tuning: Tuning) -> torch.Tensor:
    """(B, 3) of all pairs of a step: a loss's value at each, and the slopes of their sum by the pair's chosen and
    rejected log ratio. With these a micro-batch has its part of the loss and of the gradient."""
    chosen, rejected = (side.detach().requires_grad_() for side in (pairs.chosen, pairs.rejected))
    with torch.enable_grad():
        values = loss(replace(pairs, chosen=chosen, rejected=rejected), tuning)
        slopes = torch.autograd.grad(values.sum(), (chosen, rejected))
    return torch.stack((values.detach(), *slopes), 1)


def from_linearised(found: torch.Tensor, pairs: PairLogratios) -> torch.Tensor:
    """(B,) those values with their gradient, at the log ratios that they are of. found: (B, 3)."""
    values, chosen, rejected = found.to(pairs.chosen.dtype).unbind(1)
    moved = chosen * (pairs.chosen - pairs.chosen.detach()) + rejected * (pairs.rejected - pairs.rejected.detach())
    return values + moved


PairWeight = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""fn(chosen, rejected) -> (B,), of each completion's alignment (B,): the mean over its tokens of log p − log Σ p², the
sum over the vocabulary, under the policy, without gradient."""
PAIR_WEIGHTS: Options[PairWeight] = Options("weight of a pair", off="none")


@PAIR_WEIGHTS.option(
    "wpo",
    "exp(mean of log p − log Σ_v p² over a completion's tokens), of chosen times that of rejected",
    paper="Zhou et al. 2024, arXiv 2406.11827, eq. 2, sampled alignment",
)
def wpo(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Pairs that the policy might have written itself count more. The weights are not divided by their sum."""
    return torch.exp(chosen + rejected)
