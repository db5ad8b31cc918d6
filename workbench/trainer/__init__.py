"""Trainers on one core. Names are looked up when they are first used, so that settings alone never load torch."""

from __future__ import annotations

import importlib
from typing import Any

from workbench.own_code import own_trainers

_PLACES = {
    "BaseTrainer": "base_trainer",
    "SFTTrainer": "sft_trainer",
    "PretrainTrainer": "pretrain_trainer",
    "DPOTrainer": "dpo_trainer",
    "DistillTrainer": "distill_trainer",
    "GRPOTrainer": "grpo_trainer",
    "OnlineDPOTrainer": "online_dpo_trainer",
    "PPOTrainer": "ppo_trainer",
    "RewardTrainer": "reward_trainer",
    "ORPOTrainer": "orpo_trainer",
    "SimPOTrainer": "simpo_trainer",
    "CPOTrainer": "cpo_trainer",
    "RLOOTrainer": "rloo_trainer",
    "ReinforcePPTrainer": "reinforce_pp_trainer",
    "KTOTrainer": "kto_trainer",
    "configure_optimizer": "optimizer",
    "get_trainer_class": "create",
    "create_trainer": "create",
}
__all__ = sorted(_PLACES)
if (_outside := own_trainers()) is not None:
    # The files of a user's folder are modules of this package, found after the workbench's own.
    __path__.append(str(_outside))


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"workbench.trainer has no {name}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"workbench.trainer.{_PLACES[name]}"), name)
