"""A trainer's whole state to and from checkpoint tensors and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from workbench.errors import CheckpointError
from workbench.trainer import distributed, training_state
from workbench.trainer.checkpoint import Tensors
from workbench.trainer.costs import Costs
from workbench.trainer.surroundings import differences, surroundings_of

if TYPE_CHECKING:
    from workbench.trainer.base_trainer import BaseTrainer

VERSION = 6
# The loop's own attributes that are JSON values as they are.
PROGRESS = (
    "step",
    "batches_taken",
    "rollbacks",
    "skipped_in_a_row",
    "stopped_by",
    "restored_best",
    "micro_batch_rows",
    "last_row",
    "pending_row",
    "pending_completions",
    "warnings",
    "incidents",
    "inexact",
)


def take_snapshot(trainer: BaseTrainer) -> tuple[Tensors, dict[str, Any]]:
    """Everything that a resume needs: named groups of tensors, and JSON values. Every process must call it."""
    extra = trainer._get_extra_checkpoint_state()
    optimizer_tensors, optimizer_rest = training_state.optimizer_tensors(trainer.optimizer)
    # Half-used rollouts are each process's own; where there are none, there are none anywhere.
    pending = distributed.gather_objects(training_state.on_cpu(trainer.pending_batches))
    tensors: Tensors = {
        "model": training_state.model_tensors(trainer.unwrapped_model),
        "optimizer": optimizer_tensors,
        "ema": trainer.ema.shadow if trainer.ema else {},
        "extra": {name: value for name, value in extra.items() if isinstance(value, torch.Tensor)},
    }
    for rank, batches in enumerate(pending):
        tensors[f"pending{rank}"] = training_state.batches_to_tensors(batches)
    state = {
        "version": VERSION,
        "trainer": type(trainer).__name__,
        "world_size": trainer.world_size,
        "settings": _settings_record(trainer),
        "surroundings": surroundings_of(trainer),
        "micro_batch_rows_asked": trainer.settings.micro_batch_rows,
        "progress": {name: getattr(trainer, name) for name in PROGRESS} | {"costs": trainer.costs.as_json()},
        "optimizer": optimizer_rest,
        "scheduler": trainer.scheduler.state_dict(),
        "scaler": trainer.precision.state_dict(),
        "stopper": trainer.stopper.state_dict() if trainer.stopper else None,
        "range_test": trainer.range_test.state_dict() if trainer.range_test else None,
        "spikes": trainer.spikes.state_dict() if trainer.spikes else None,
        "health": trainer.health.state_dict(),
        "reference": trainer._reference.state_dict(),
        "extra": {name: value for name, value in extra.items() if not isinstance(value, torch.Tensor)},
    }
    return {name: group for name, group in tensors.items() if group}, state


def restore_snapshot(trainer: BaseTrainer, tensors: Tensors, state: dict[str, Any], *, inexact: bool = False) -> None:
    """Put the trainer where take_snapshot found it. CheckpointError when it is of another model or other settings, or,
    unless inexact, of surroundings in which it would not go on to the same bits."""
    _refuse_other_settings(trainer, state)
    changed = _changed_surroundings(trainer, state, inexact)
    pending = {name: group for name, group in tensors.items() if name.startswith("pending")}
    if pending and state["world_size"] != trainer.world_size:
        raise CheckpointError(
            f"the checkpoint holds half-used batches of {state['world_size']} processes, this run has "
            f"{trainer.world_size}; resume with as many, or from a checkpoint between batches"
        )
    # Before the weights: a reference that is a copy of the start must be copied while the start is still there.
    trainer._reference.load_state_dict(state["reference"], trainer.policy)
    trainer._load_extra_checkpoint_state({**state["extra"], **tensors.get("extra", {})})
    training_state.load_model_tensors(trainer.unwrapped_model, tensors.get("model", {}))
    training_state.load_optimizer_tensors(trainer.optimizer, tensors.get("optimizer", {}), state["optimizer"])
    if trainer.ema:
        trainer.ema.load(tensors["ema"])
    trainer.scheduler.load_state_dict(state["scheduler"])
    trainer.precision.load_state_dict(state["scaler"])
    if trainer.stopper and state["stopper"]:
        trainer.stopper.load_state_dict(state["stopper"])
    if trainer.range_test:
        trainer.range_test.load_state_dict(state["range_test"])
    if trainer.spikes:
        trainer.spikes.load_state_dict(state["spikes"])
    trainer.health.load_state_dict(state["health"])
    for name in PROGRESS:
        setattr(trainer, name, state["progress"][name])
    _mark_inexact(trainer, changed)
    trainer.micro_batch_rows = _micro_batch_rows(trainer.settings.micro_batch_rows, state)
    trainer.costs = Costs.of(state["progress"]["costs"])
    own = training_state.batches_from_tensors(pending.get(f"pending{trainer.rank}", {}))
    trainer.pending_batches = [{key: value.to(trainer.device) for key, value in batch.items()} for batch in own]


def restore_weights(trainer: BaseTrainer, tensors: Tensors, step: int) -> None:
    """Of a checkpoint what evaluating depends on, alone: the trainer can then evaluate, and not train on."""
    training_state.load_model_tensors(trainer.unwrapped_model, tensors.get("model", {}))
    if trainer.ema:
        trainer.ema.load(tensors["ema"])
    trainer.step = step


def _changed_surroundings(trainer: BaseTrainer, state: dict[str, Any], inexact: bool) -> list[str]:
    changed = differences(state["surroundings"], surroundings_of(trainer))
    # Another number of processes adds up in another order, which a user asks for by starting so many.
    refused = [text for text in changed if not text.startswith("processes ")]
    if refused and not inexact:
        raise CheckpointError(
            f"the checkpoint was written under {'; '.join(refused)}: the run would not go on to the same bits; restore "
            "what changed, run afresh (FRESH=1), or go on all the same with --inexact (make: INEXACT=1), which marks it"
        )
    if trainer.device.type == "cuda" and not trainer.settings.deterministic:
        changed.append("deterministic: false")
    return changed


def _mark_inexact(trainer: BaseTrainer, changed: list[str]) -> None:
    if changed:
        text = f"not exact from step {trainer.step} on: resumed under {'; '.join(changed)}"
        trainer.inexact = [*trainer.inexact, text]
        trainer.warnings = [*trainer.warnings, text]


def _settings_record(trainer: BaseTrainer) -> dict[str, Any]:
    """The settings that numbers depend on, as JSON values, and what the run has resolved of them."""
    return trainer.settings.decisive() | {"precision": trainer.precision.name}


def _micro_batch_rows(wanted: int | None, state: dict[str, Any]) -> int | None:
    """As the settings have it now, or less where memory ran out before."""
    used = state["progress"]["micro_batch_rows"]
    halved = used if used != state["micro_batch_rows_asked"] else None
    return min((rows for rows in (wanted, halved) if rows is not None), default=None)


def _refuse_other_settings(trainer: BaseTrainer, state: dict[str, Any]) -> None:
    if state.get("version") != VERSION or state.get("trainer") != type(trainer).__name__:
        found = f"{state.get('trainer')} checkpoint version {state.get('version')}"
        raise CheckpointError(f"this is a {found}; {type(trainer).__name__} version {VERSION} is needed")
    saved, own = state["settings"], _settings_record(trainer)
    differing = sorted(name for name in saved.keys() | own.keys() if saved.get(name) != own.get(name))
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"the checkpoint was written with {name} {saved.get(name)!r}, this run has {own.get(name)!r} "
            f"({len(differing)} settings differ); run afresh, or with the old settings"
        )
