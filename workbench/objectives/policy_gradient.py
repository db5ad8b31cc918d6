"""Losses of sampled tokens by their advantages (GRPO and relatives, PPO), as pure functions looked up by name once.

Letters: B completions, T positions. Losses are per token and *not* reduced: `weights` says how much a token counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workbench.objectives.late_torch import torch
from workbench.objectives.options import Options

MAX_LOG_RATIO = 20.0
"""Log ratios are held within +-20: beyond it exp overflows, and the token is clipped anyway."""


@dataclass(frozen=True)
class SampledTokens:
    """What an update knows of each sampled token. All (B, T); advantages also (B, 1). mask: tokens that count."""

    logprobs: torch.Tensor
    old_logprobs: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor

    @property
    def log_ratio(self) -> torch.Tensor:
        """log(pi / pi_old) of each token, nats, 0 where masked."""
        difference = torch.where(self.mask, self.logprobs - self.old_logprobs, 0.0)
        return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)

    @property
    def whole_log_ratio(self) -> torch.Tensor:
        """log(pi / pi_old) of the whole completion, nats, (B, 1): clamped as one number, never token by token."""
        return self._summed.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)

    @property
    def mean_log_ratio(self) -> torch.Tensor:
        """The mean of a completion's log ratios, (B, 1), clamped likewise."""
        mean = self._summed / self.mask.sum(1, keepdim=True).clamp(min=1)
        return mean.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)

    @property
    def _summed(self) -> torch.Tensor:
        return torch.where(self.mask, self.logprobs - self.old_logprobs, 0.0).sum(1, keepdim=True)


@dataclass(frozen=True)
class Clip:
    """low, high: the ratio is held within [1 - low, 1 + high]. ceiling: CISPO's absolute bound of the ratio. steepness,
    steepness_negative: SAPO's temperatures, of tokens with an advantage above 0 and of the others."""

    low: float = 0.2
    high: float = 0.2
    ceiling: float = 5.0
    steepness: float = 1.0
    steepness_negative: float = 1.05


@dataclass(frozen=True)
class Surrogate:
    """losses: (B, T). low_clipped, high_clipped: (B, T) bool, tokens without gradient for being outside the clip."""

    losses: torch.Tensor
    low_clipped: torch.Tensor
    high_clipped: torch.Tensor


def clipped_tokens(tokens: SampledTokens, clip: Clip) -> Surrogate:
    """-min(ratio A, clip(ratio) A), token by token (Schulman 2017, arXiv 1707.06347, eq. 7; clips apart: DAPO's)."""
    return _clipped(tokens.log_ratio.exp(), tokens.advantages, clip)


def clipped_sequences(tokens: SampledTokens, clip: Clip) -> Surrogate:
    """The clipped surrogate with one ratio a completion, exp(mean log ratio) (GSPO, Zheng 2025, arXiv 2507.18071, eq.
    5-7)."""
    return _clipped(tokens.mean_log_ratio.exp().expand(tokens.mask.shape), tokens.advantages, clip)


def clipped_completions(tokens: SampledTokens, clip: Clip) -> Surrogate:
    """The clipped surrogate with the ratio of the whole completion, exp(sum of log ratios), at each of its tokens: for
    old log-probabilities that are known as a sum alone."""
    return _clipped(tokens.whole_log_ratio.exp().expand(tokens.mask.shape), tokens.advantages, clip)


def clipped_weights(tokens: SampledTokens, clip: Clip) -> Surrogate:
    """-sg(min(ratio, ceiling)) A logp (CISPO, MiniMax-M1 2025, arXiv 2506.13585, eq. 4-5): no token loses its gradient.

    high_clipped: tokens whose weight is held at the ceiling, of positive advantage.
    """
    ratio = tokens.log_ratio.detach().exp()
    losses = -ratio.clamp(max=clip.ceiling) * tokens.advantages * tokens.logprobs
    held = (ratio > clip.ceiling) & (tokens.advantages > 0)
    return Surrogate(losses, torch.zeros_like(held), held)


def softly_clipped(tokens: SampledTokens, clip: Clip) -> Surrogate:
    """-4/tau sigmoid(tau (ratio - 1)) A (SAPO 2025, arXiv 2511.20347): there is no clip, and the gradient fades as the
    ratio leaves 1. tau is `steepness` where A > 0, else `steepness_negative`."""
    ratio = tokens.log_ratio.exp()
    tau = torch.where(tokens.advantages > 0, clip.steepness, clip.steepness_negative)
    losses = -4 / tau * torch.sigmoid(tau * (ratio - 1)) * tokens.advantages
    nothing = torch.zeros_like(losses, dtype=torch.bool)
    return Surrogate(losses, nothing, nothing)


def _clipped(ratio: torch.Tensor, advantages: torch.Tensor, clip: Clip) -> Surrogate:
    losses = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip.low, 1 + clip.high) * advantages)
    return Surrogate(losses, (ratio < 1 - clip.low) & (advantages < 0), (ratio > 1 + clip.high) & (advantages > 0))


# A reduction says how much each token counts and how many units a step has: loss = sum(weights x losses) / units.


@dataclass(frozen=True)
class Reduction:
    """weights: (lengths (B,)) -> (B,) weight of each token of a completion. units: (lengths (B,), limit) -> (B,)."""

    weights: Callable[[torch.Tensor], torch.Tensor]
    units: Callable[[torch.Tensor, int], torch.Tensor]


PER_SEQUENCE = Reduction(lambda lengths: 1.0 / lengths.clamp(min=1), lambda lengths, _: (lengths > 0).double())
"""Mean over each completion's tokens, then over completions (GRPO's)."""
PER_TOKEN = Reduction(
    lambda lengths: torch.ones_like(lengths, dtype=torch.float32), lambda lengths, _: lengths.double()
)
"""Mean over all tokens (DAPO's, arXiv 2503.14476)."""
CONSTANT = Reduction(PER_TOKEN.weights, lambda lengths, limit: (lengths > 0).double() * limit)
"""Sum over tokens, divided by completions x their maximal length (Dr. GRPO's): no bias by length."""

PER_COMPLETION = Reduction(PER_TOKEN.weights, PER_SEQUENCE.units)
"""Sum over each completion's tokens, then mean over completions (LUSPO's): a long completion counts by its length."""


@dataclass(frozen=True)
class PolicyLoss:
    """A loss by name: what each token's is, and how they are put together."""

    surrogate: Callable[[SampledTokens, Clip], Surrogate]
    reduction: Reduction


POLICY_LOSSES: Options[PolicyLoss] = Options("policy loss")
_CLIPS = ("clip_low", "clip_high")
_CLIPPED = "−min(r A, clip(r, 1 − clip_low, 1 + clip_high) A)"
_CLIPPED_TOKEN = f"{_CLIPPED}, r = π/π_old a token"
POLICY_LOSSES.add(
    "grpo",
    PolicyLoss(clipped_tokens, PER_SEQUENCE),
    f"{_CLIPPED_TOKEN}, mean over each completion's tokens, then over completions",
    paper="Shao et al. 2024, arXiv 2402.03300",
    reads=_CLIPS,
)
POLICY_LOSSES.add(
    "dapo",
    PolicyLoss(clipped_tokens, PER_TOKEN),
    f"{_CLIPPED_TOKEN}, mean over all tokens of the step",
    paper="Yu et al. 2025, arXiv 2503.14476",
    reads=_CLIPS,
)
POLICY_LOSSES.add(
    "bnpo",
    PolicyLoss(clipped_tokens, PER_TOKEN),
    f"{_CLIPPED_TOKEN}, mean over all tokens of the step, as dapo (TRL: over those of each micro-batch, so that the "
    "gradient depends on the cut)",
    paper="bnpo of TRL 1.16",
    reads=_CLIPS,
)
POLICY_LOSSES.add(
    "dr_grpo",
    PolicyLoss(clipped_tokens, CONSTANT),
    f"{_CLIPPED_TOKEN}, summed, divided by completions × max_new_tokens",
    paper="Liu et al. 2025, arXiv 2503.20783",
    reads=_CLIPS,
)
POLICY_LOSSES.add(
    "gspo",
    PolicyLoss(clipped_sequences, PER_SEQUENCE),
    f"{_CLIPPED}, r = (π/π_old)^(1/length) of a whole completion, mean over completions",
    paper="Zheng et al. 2025, arXiv 2507.18071, eq. 5-7",
    reads=_CLIPS,
)
POLICY_LOSSES.add(
    "luspo",
    PolicyLoss(clipped_sequences, PER_COMPLETION),
    f"length × {_CLIPPED}, r = (π/π_old)^(1/length) of a whole completion, mean over completions",
    paper="Length-Unbiased Sequence Policy Optimization 2026, arXiv 2602.05261",
    reads=_CLIPS,
)
POLICY_LOSSES.add(
    "sapo",
    PolicyLoss(softly_clipped, PER_SEQUENCE),
    "−4/τ σ(τ (r − 1)) A, r = π/π_old a token, τ = sapo_temperature_pos where A > 0, else sapo_temperature_neg; mean "
    "over each completion's tokens, then over completions",
    paper="Soft Adaptive Policy Optimization 2025, arXiv 2511.20347",
    reads=("sapo_temperature_pos", "sapo_temperature_neg"),
)
POLICY_LOSSES.add(
    "cispo",
    PolicyLoss(clipped_weights, PER_TOKEN),
    "−min(r, ratio_ceiling) A log π a token, r = π/π_old without gradient, mean over all tokens of the step",
    paper="MiniMax-M1 2025, arXiv 2506.13585, eq. 4-5",
    reads=("ratio_ceiling",),
)


# Importance weights (B, T), without gradient, correct the gap between the sampler and the trainer.

Correction = Callable[["torch.Tensor", "torch.Tensor", float], "torch.Tensor"]
"""fn(log ratio of trainer to sampler (B, T), mask, cap) -> weights (B, T)."""
CORRECTIONS: Options[Correction] = Options("importance correction", off="none")
_YAO = "Yao et al. 2025, truncated importance sampling"


@CORRECTIONS.option("token_truncate", "weights min(π/π_sampler, importance_cap) of each token", paper=_YAO)
def token_truncate(log_ratio: torch.Tensor, mask: torch.Tensor, cap: float) -> torch.Tensor:
    """The ratio of each token, cut at the cap."""
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp().clamp(max=cap)


@CORRECTIONS.option("token_mask", "weights π/π_sampler of each token, 0 beyond importance_cap")
def token_mask(log_ratio: torch.Tensor, mask: torch.Tensor, cap: float) -> torch.Tensor:
    """The ratio of each token, 0 where it exceeds the cap."""
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    return torch.where(ratio > cap, 0.0, ratio)


@CORRECTIONS.option("sequence_truncate", "weights min(π/π_sampler, importance_cap) of the whole completion")
def sequence_truncate(log_ratio: torch.Tensor, mask: torch.Tensor, cap: float) -> torch.Tensor:
    """The ratio of the whole completion, cut at the cap, at each of its tokens."""
    return token_truncate(_summed(log_ratio, mask), mask, cap)


@CORRECTIONS.option("sequence_mask", "weights π/π_sampler of the whole completion, 0 beyond importance_cap")
def sequence_mask(log_ratio: torch.Tensor, mask: torch.Tensor, cap: float) -> torch.Tensor:
    """The ratio of the whole completion, 0 where it exceeds the cap."""
    return token_mask(_summed(log_ratio, mask), mask, cap)


def _summed(log_ratio: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask, log_ratio, 0.0).sum(1, keepdim=True).expand(mask.shape)


def clipped_value_losses(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """0.5 max((V - R)^2, (V_old + clamp(V - V_old, -eps, eps) - R)^2), and where the clipped one is larger; (B, T)."""
    held = old_values + (values - old_values).clamp(-clip, clip)
    plain, clipped = (values - returns).square(), (held - returns).square()
    return 0.5 * torch.maximum(plain, clipped), clipped > plain
