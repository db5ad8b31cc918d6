"""Log-probabilities of given tokens, at least float32, without holding (N, V) in float32 where that is large."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 24
"""Logits computed at once: 64 MiB in float32. Smaller problems take the direct path."""


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Half precision made float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def token_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability of each target, nats.

    logits: (..., V), already shifted: position t scores targets[..., t]. targets: (...). Returns (...), float32
    (float64 of float64 logits).
    """
    flat = functional.cross_entropy(at_least_float32(logits.flatten(0, -2)), targets.flatten(), reduction="none")
    return -flat.view(targets.shape)


def projected_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> torch.Tensor:
    """Log-probability of each target from the vectors before the output head, nats.

    hidden: (N, H); weight: (V, H), or None where hidden already is the logits (N, V); targets: (N,). Returns (N,),
    at least float32. Where N x V is large, rows are projected in chunks that the backward pass computes again.
    """

    def score(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return token_logprobs(head_logits(hidden, weight, bias, temperature), targets)

    return in_chunks(score, hidden, weight, targets, chunk)


def projected_alignments(
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> torch.Tensor:
    """(N, 2): what projected_logprobs gives, and without gradient log sum p², the log-probability that two draws from
    the whole distribution are equal."""

    def score(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = head_logits(hidden, weight, bias, temperature)
        known = at_least_float32(logits.detach())
        equal = (2 * known).logsumexp(-1) - 2 * known.logsumexp(-1)
        return torch.stack((token_logprobs(logits, targets), equal), 1)

    return in_chunks(score, hidden, weight, targets, chunk)


def projected_entropies(
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    *,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> torch.Tensor:
    """Entropy of the whole distribution at each position, nats, with its gradient; as projected_logprobs. (N,)."""

    def score(hidden: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        logprobs = at_least_float32(head_logits(hidden, weight, bias, temperature)).log_softmax(-1)
        return -expectation(logprobs, logprobs)

    return in_chunks(score, hidden, weight, hidden.new_zeros(len(hidden)), chunk)


def expectation(logprobs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The mean of the values over the vocabulary, sum of p times the value: a token that cannot come (log p = -inf, of
    a masked vocabulary) adds exactly 0, whatever its value is, and one that can come adds an infinite value as it is,
    though its p may be too small for a number of this precision: the plain product 0 * inf is NaN.

    Both (..., V). Returns (...). With its gradient, to which the token that cannot come adds 0 too.
    """
    counted = values.masked_fill(logprobs.isneginf(), 0.0)
    infinite = counted.isinf()
    return torch.where(infinite, counted, logprobs.exp() * counted.masked_fill(infinite, 0.0)).sum(-1)


def head_logits(
    hidden: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    """(N, V) logits over the temperature, in the precision that the head gives. Arguments as projected_logprobs'."""
    logits = hidden if weight is None else functional.linear(hidden, weight, bias)
    return at_least_float32(logits) / temperature if temperature != 1.0 else logits


def in_chunks(
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    weight: torch.Tensor | None,
    targets: torch.Tensor,
    chunk: int | None,
) -> torch.Tensor:
    """score(hidden, targets) of (N, H) and (N, ...), in chunks that the backward pass computes again where N x V is
    large, or where there are more than `chunk` rows."""
    vocabulary = hidden.shape[1] if weight is None else weight.shape[0]
    rows = chunk or max(1, CHUNK_ELEMENTS // vocabulary)
    if len(hidden) <= rows:
        return score(hidden, targets)
    parts = [
        checkpoint(score, hidden[start : start + rows], targets[start : start + rows], use_reentrant=False)
        for start in range(0, len(hidden), rows)
    ]
    return torch.cat(parts)
