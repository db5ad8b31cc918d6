"""A trainer's whole state to and from checkpoint tensors and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import CheckpointError
from workbench.trainer import training_state
from workbench.trainer.costs import Costs

if TYPE_CHECKING:
    from workbench.trainer.base_trainer import BaseTrainer

VERSION = 1
# What may differ between the run that wrote a checkpoint and the one that reads it: no number depends on it.
FREE_SETTINGS = {"device", "micro_batch_rows", "checkpoint_every", "checkpoint_seconds", "keep_checkpoints"}

Tensors = dict[str, dict[str, torch.Tensor]]


def take_snapshot(trainer: BaseTrainer) -> tuple[Tensors, dict[str, Any]]:
    """Everything that a resume needs: named groups of tensors, and JSON values."""
    extra = trainer._get_extra_checkpoint_state()
    optimizer_tensors, optimizer_rest = training_state.optimizer_tensors(trainer.optimizer)
    tensors: Tensors = {
        "model": training_state.model_tensors(trainer.unwrapped_model),
        "optimizer": optimizer_tensors,
        "pending": training_state.batches_to_tensors(trainer.pending_batches),
        "extra": {name: value for name, value in extra.items() if isinstance(value, torch.Tensor)},
    }
    state = {
        "version": VERSION,
        "trainer": type(trainer).__name__,
        "settings": trainer.settings_record,
        "progress": trainer.progress_record,
        "optimizer": optimizer_rest,
        "scheduler": {k: v for k, v in trainer.scheduler.state_dict().items() if k != "lr_lambdas"},
        "scaler": trainer.precision.state_dict(),
        "stopper": trainer.stopper.state_dict() if trainer.stopper else None,
        "extra": {name: value for name, value in extra.items() if not isinstance(value, torch.Tensor)},
    }
    return tensors, state


def restore_snapshot(trainer: BaseTrainer, tensors: Tensors, state: dict[str, Any] | None) -> None:
    """Put the trainer where take_snapshot found it; state None restores the weights alone (the best ones)."""
    if state is None:
        training_state.load_model_tensors(trainer.unwrapped_model, tensors["model"])
        return
    _refuse_other_settings(trainer, state)
    # Before the weights: a reference that is a copy of the start must be copied while the start is still there.
    trainer._load_extra_checkpoint_state({**state["extra"], **tensors.get("extra", {})})
    training_state.load_model_tensors(trainer.unwrapped_model, tensors["model"])
    training_state.load_optimizer_tensors(trainer.optimizer, tensors["optimizer"], state["optimizer"])
    trainer.scheduler.load_state_dict(state["scheduler"])
    trainer.precision.load_state_dict(state["scaler"])
    if trainer.stopper and state["stopper"]:
        trainer.stopper.load_state_dict(state["stopper"])
    progress = state["progress"]
    trainer.step, trainer.batches_taken = progress["step"], progress["batches_taken"]
    trainer.rollbacks, trainer.stopped_by = progress["rollbacks"], progress["stopped_by"]
    trainer.pending_row = progress["pending_row"]
    trainer.costs = Costs(**progress["costs"])
    pending = training_state.batches_from_tensors(tensors.get("pending", {}))
    trainer.pending_batches = [{k: v.to(trainer.device) for k, v in batch.items()} for batch in pending]


def _refuse_other_settings(trainer: BaseTrainer, state: dict[str, Any]) -> None:
    if state.get("version") != VERSION or state.get("trainer") != type(trainer).__name__:
        found = f"{state.get('trainer')} checkpoint version {state.get('version')}"
        raise CheckpointError(f"this is a {found}; {type(trainer).__name__} version {VERSION} is needed")
    saved, own = state["settings"], trainer.settings_record
    differing = sorted(k for k in saved.keys() | own.keys() if saved.get(k) != own.get(k) and k not in FREE_SETTINGS)
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"the checkpoint was written with {name} {saved.get(name)!r}, this run has {own.get(name)!r} "
            f"({len(differing)} settings differ); run afresh, or with the old settings"
        )
