"""Distillation: how far a student's next-token distributions are from a teacher's, over the whole vocabulary.

p is the teacher's distribution, s the student's, both softmax(logits / tau). M positions, V vocabulary. A token that
one of them cannot say (a logit of -inf, of a masked vocabulary) adds what the definition gives it: 0 log(0 / s) = 0,
and s log(s / 0) is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from workbench.objectives.logprobs import CHUNK_ELEMENTS, at_least_float32, expectation, head_logits, in_chunks

Divergence = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""fn(teacher_logprobs, student_logprobs), both (M, V) in nats -> (M,), never negative but for rounding."""
Projected = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""hidden (M, H), weight (V, H), bias (V,): logits are hidden weightᵀ + bias; without a weight hidden is the logits."""
PER_LOGIT = 4
"""How many tensors of a chunk's logits a divergence holds, beside those of a log-probability."""


def forward_kl(teacher_logprobs: torch.Tensor, student_logprobs: torch.Tensor) -> torch.Tensor:
    """KL(p || s) = sum p log(p / s): the student covers all that the teacher may say. Infinite where the student cannot
    say it."""
    return expectation(teacher_logprobs, teacher_logprobs - student_logprobs)


def reverse_kl(teacher_logprobs: torch.Tensor, student_logprobs: torch.Tensor) -> torch.Tensor:
    """KL(s || p) = sum s log(s / p): the student says nothing that the teacher would not. Infinite where the teacher
    cannot say what the student may."""
    return forward_kl(student_logprobs, teacher_logprobs)


def jensen_shannon(teacher_logprobs: torch.Tensor, student_logprobs: torch.Tensor, beta: float) -> torch.Tensor:
    """beta KL(p || m) + (1 - beta) KL(s || m), m = beta p + (1 - beta) s (GKD, Agarwal et al. 2023, arXiv 2306.13649).

    beta: strictly between 0 and 1, at both of which it is 0 whatever the distributions are. It is always finite.
    """
    # The gradient of logaddexp at two -inf is NaN; this is the lowest number beside them.
    said = student_logprobs.clamp(min=torch.finfo(student_logprobs.dtype).min)
    mixture = torch.logaddexp(teacher_logprobs + math.log(beta), said + math.log1p(-beta))
    return beta * forward_kl(teacher_logprobs, mixture) + (1 - beta) * forward_kl(student_logprobs, mixture)


def divergence_of(beta: float) -> Divergence:
    """The forward KL at 0, the reverse KL at 1, between them the Jensen-Shannon divergence of weight beta.

    At its ends that divergence is 0, and divided by beta, or by 1 - beta, it approaches the two: the paper takes them
    there, and so do TRL and we.
    """
    if beta == 0:
        return forward_kl
    return reverse_kl if beta == 1 else partial(jensen_shannon, beta=beta)


def projected_divergence(
    student: Projected,
    teacher: Projected,
    divergence: Divergence,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> torch.Tensor:
    """tau^2 times the divergence at each position, nats; tau^2 keeps the size of the gradient (Hinton et al. 2015).
    TRL has no such factor, and its loss no temperature.

    student, teacher: each H is its own; the teacher's is not learned. Returns (M,), at least float32. Where M x V is
    large, positions are projected in chunks that the backward pass computes again.
    """
    (hidden, weight, bias), (teacher_hidden, teacher_weight, teacher_bias) = student, teacher
    vocabulary = hidden.shape[1] if weight is None else weight.shape[0]

    def score(hidden: torch.Tensor, teacher_hidden: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = _logprobs(teacher_hidden, teacher_weight, teacher_bias, temperature)
        own = _logprobs(hidden, weight, bias, temperature)
        return temperature**2 * divergence(wanted.to(own.dtype), own)

    return in_chunks(score, hidden, weight, teacher_hidden, chunk or max(1, CHUNK_ELEMENTS // (PER_LOGIT * vocabulary)))


def _logprobs(
    hidden: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    return at_least_float32(head_logits(hidden, weight, bias, temperature)).log_softmax(-1)
