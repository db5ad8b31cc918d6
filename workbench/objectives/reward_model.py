"""The objective of a reward model, which gives a text one score. B pairs."""

from __future__ import annotations

import torch
from torch.nn import functional


def bradley_terry(chosen: torch.Tensor, rejected: torch.Tensor, margins: torch.Tensor | float = 0.0) -> torch.Tensor:
    """-log sigmoid(chosen - rejected - margin) of each pair (Bradley and Terry 1952; the margin is that of Touvron et
    al. 2023, arXiv 2307.09288, equation 2).

    chosen, rejected: (B,) scores. margins: (B,) by how much the chosen one is to stand above. Returns (B,), nats.
    """
    return -functional.logsigmoid(chosen - rejected - margins)


def centring(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """(chosen + rejected)^2 of each pair, which keeps the scores about 0 (Eisenstein et al. 2023, arXiv 2312.09244):
    differences alone leave their level open. chosen, rejected: (B,) scores. Returns (B,)."""
    return (chosen + rejected).square()
