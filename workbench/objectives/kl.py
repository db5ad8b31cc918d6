"""Divergences between policy and reference, in nats."""

from __future__ import annotations

from collections.abc import Callable

import torch

from workbench.objectives.logprobs import at_least_float32


def kl_k1(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Per-token log ratio: unbiased for KL(policy || reference), often negative (Schulman 2020, "k1"). (B, T)."""
    return logprobs - ref_logprobs


def kl_k2(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Half the squared log ratio: biased, never negative (Schulman 2020, "k2"). (B, T)."""
    return 0.5 * (logprobs - ref_logprobs).square()


def kl_k3(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Per-token estimate of KL(policy || reference), unbiased and never negative (Schulman 2020, "k3"). (B, T)."""
    difference = ref_logprobs - logprobs
    return torch.expm1(difference) - difference


def kl_k3_ratio(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """k3 times the ratio to the policy that sampled: in a loss, its gradient is that of the reverse KL. (B, T)."""
    return kl_k3(logprobs, ref_logprobs) * ratio


KL_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "k2": lambda logprobs, ref_logprobs, ratio: kl_k2(logprobs, ref_logprobs),
    "k3": lambda logprobs, ref_logprobs, ratio: kl_k3(logprobs, ref_logprobs),
    "k3_ratio": kl_k3_ratio,
}
"""As a term of the loss. Not k1, whose expected gradient is zero; plain k3 has the forward KL's gradient."""
KL_PENALTIES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "k1": kl_k1,
    "k2": kl_k2,
    "k3": kl_k3,
}
"""As a penalty within the reward, where only values count."""


def full_kl(logits: torch.Tensor, ref_logits: torch.Tensor) -> torch.Tensor:
    """KL(policy || reference) over the whole vocabulary at each position. logits: (..., V). Returns (...), nats."""
    logprobs = at_least_float32(logits).log_softmax(-1)
    ref_logprobs = at_least_float32(ref_logits).log_softmax(-1)
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)
