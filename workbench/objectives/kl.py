"""Divergences between policy and reference, in nats."""

from __future__ import annotations

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


def full_kl(logits: torch.Tensor, ref_logits: torch.Tensor) -> torch.Tensor:
    """KL(policy || reference) over the whole vocabulary at each position. logits: (..., V). Returns (...), nats."""
    logprobs = at_least_float32(logits).log_softmax(-1)
    ref_logprobs = at_least_float32(ref_logits).log_softmax(-1)
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)
