"""Divergences between policy and reference, in nats."""

from __future__ import annotations

from collections.abc import Callable

from workbench.objectives.late_torch import torch
from workbench.objectives.options import Options

KL_ESTIMATORS: Options[Callable[..., torch.Tensor]] = Options("KL estimator", used_with="beta")
"""Per-token estimates of KL(policy || reference), of which KL_LOSSES and KL_PENALTIES say where each may stand."""
_SCHULMAN = "Schulman 2020, Approximating KL divergence"


@KL_ESTIMATORS.option("k1", "log π/π_ref", paper=_SCHULMAN)
def kl_k1(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Unbiased for KL(policy || reference), often negative. All (B, T)."""
    return logprobs - ref_logprobs


@KL_ESTIMATORS.option("k2", "½ (log π/π_ref)²", paper=_SCHULMAN)
def kl_k2(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Biased, never negative. All (B, T)."""
    return 0.5 * (logprobs - ref_logprobs).square()


@KL_ESTIMATORS.option("k3", "π_ref/π − 1 − log π_ref/π", paper=_SCHULMAN)
def kl_k3(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Unbiased and never negative. All (B, T)."""
    difference = ref_logprobs - logprobs
    return torch.expm1(difference) - difference


@KL_ESTIMATORS.option("k3_ratio", "π/π_old (π_ref/π − 1 − log π_ref/π)")
def kl_k3_ratio(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """k3 times the ratio to the policy that sampled: in a loss, its gradient is that of the reverse KL. All (B, T)."""
    return kl_k3(logprobs, ref_logprobs) * ratio


@KL_ESTIMATORS.option("k3_sequence", "(π/π_old of the completion)^(1/length) (π_ref/π − 1 − log π_ref/π)")
def kl_k3_sequence(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """k3 times the ratio that gspo takes of the completion, (B, 1), as TRL does there; k3_ratio has one a token."""
    return kl_k3(logprobs, ref_logprobs) * ratio


KL_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "k2": lambda logprobs, ref_logprobs, ratio: kl_k2(logprobs, ref_logprobs),
    "k3": lambda logprobs, ref_logprobs, ratio: kl_k3(logprobs, ref_logprobs),
    "k3_ratio": kl_k3_ratio,
    "k3_sequence": kl_k3_sequence,
}
"""Estimators that may be a term of the loss: not k1, whose expected gradient is zero. Plain k3 has the forward KL's."""
KL_PENALTIES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "k1": kl_k1,
    "k2": kl_k2,
    "k3": kl_k3,
}
"""Estimators that may be a penalty within the reward, where only values count."""


def full_kl(logits: torch.Tensor, ref_logits: torch.Tensor) -> torch.Tensor:
    """KL(policy || reference) over the whole vocabulary at each position. logits: (..., V). Returns (...), nats:
    infinite where the policy may say what the reference cannot (a logit of -inf)."""
    from workbench.objectives.logprobs import at_least_float32, expectation

    logprobs = at_least_float32(logits).log_softmax(-1)
    ref_logprobs = at_least_float32(ref_logits).log_softmax(-1)
    return expectation(logprobs, logprobs - ref_logprobs)
