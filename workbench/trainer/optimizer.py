"""The optimiser: fused AdamW with decay on matrices alone, or Muon on the hidden matrices beside it."""

from __future__ import annotations

from typing import Any

import torch

from workbench.errors import DefinitionError
from workbench.models.passes import output_head
from workbench.trainer.loop.muon import MuonWithAdamW
from workbench.trainer.settings import TrainerSettings


def configure_optimizer(model: torch.nn.Module, settings: TrainerSettings) -> torch.optim.Optimizer:
    """What `settings.optimizer` names, over the model's trainable parameters: matrices decay, vectors do not.

    Frozen parameters are left out. Raises DefinitionError when nothing is trainable, or nothing that Muon is for.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise DefinitionError("the model has no trainable parameter: unfreeze some, or add an adapter")
    if settings.optimizer == "adamw":
        return _adamw(trainable, settings)
    hidden = hidden_matrices(model)
    if not hidden:
        raise DefinitionError("optimizer: muon is for hidden matrices and none is trainable here; use adamw")
    # "match_rms_adamw" scales an update by 0.2 sqrt(max(rows, columns)) (arXiv 2502.16982, section 2.2), to the size
    # that AdamW's have, where Jordan scales by sqrt(max(1, rows / columns)) and needs a learning rate of its own.
    muon = torch.optim.Muon(
        hidden, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    own = {id(parameter) for parameter in hidden}
    others = [parameter for parameter in trainable if id(parameter) not in own]
    return MuonWithAdamW(muon, _adamw(others, settings)) if others else muon


def hidden_matrices(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Trainable matrices that are neither an embedding (of tokens or positions) nor the output head.

    LoRA's A and B are among them. A model that does not name its head has it counted as hidden.
    """
    head = output_head(model)
    apart = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    kept = {id(weight) for weight in apart} | ({id(head.weight)} if head is not None else set())
    return [p for p in model.parameters() if p.requires_grad and p.ndim == 2 and id(p) not in kept]


def _adamw(parameters: list[torch.nn.Parameter], settings: TrainerSettings) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        eps=settings.adam_epsilon,
        fused=True,
    )
