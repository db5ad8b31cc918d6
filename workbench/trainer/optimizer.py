"""The optimiser: fused AdamW with decay on matrices alone."""

from __future__ import annotations

import torch

from workbench.trainer.settings import TrainerSettings


def configure_optimizer(model: torch.nn.Module, settings: TrainerSettings) -> torch.optim.Optimizer:
    """AdamW over the model's trainable parameters, in a decayed group (matrices) and an undecayed one (vectors).

    Frozen parameters are left out. ValueError when nothing is trainable.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError("the model has no trainable parameter: unfreeze some, or add an adapter")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        eps=settings.adam_epsilon,
        fused=True,
    )
