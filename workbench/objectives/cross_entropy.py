"""Cross-entropy as a sum and its number of tokens, so that whoever knows the whole batch divides once."""

from __future__ import annotations

import torch

from workbench.objectives.logprobs import projected_logprobs

IGNORED = -100


def summed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over tokens of -log p(label), nats, and how many there are; labels of -100 count for nothing.

    logits: (B, T, V), where position t scores labels[:, t + 1]; labels: (B, T). Two scalars.
    """
    wanted = labels[:, 1:]
    kept = wanted != IGNORED
    return -projected_logprobs(logits[:, :-1][kept], None, wanted[kept]).sum(), kept.sum()
