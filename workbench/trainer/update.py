"""The committed half of a step: the optimiser's update, or what the settings say where it must not be made."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import DivergenceError, NonFiniteError
from workbench.trainer.incidents import note

if TYPE_CHECKING:
    from workbench.trainer.base_trainer import BaseTrainer

MAX_ROLLBACKS = 3
MAX_SKIPPED = 20
"""Steps skipped one after another before the run stops: what then diverges is the model, not a batch."""


@dataclass(frozen=True)
class Trouble:
    """Why an update must not be made, and what is done instead: stop, skip or rollback."""

    what: str
    action: str
    setting: str
    error: type[DivergenceError]


def apply_update(trainer: BaseTrainer, row: dict[str, float]) -> bool:
    """Step optimiser and schedule, or do what the settings say of a step in trouble; False when it was rolled back."""
    finite = math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])
    sound = finite or (math.isfinite(row["loss"]) and trainer.precision.expects_overflow)
    if trainer.range_test:
        trainer.stopped_by = trainer.range_test.observe(row["loss"] if sound else math.nan, row["learning_rate"])
    trouble = _find_trouble(trainer, row, finite=finite, sound=sound)
    if trouble is None:
        trainer.precision.step(trainer.optimizer)
    elif trouble.action == "rollback":
        _roll_back(trainer, trouble)
        return False
    else:
        _skip_or_stop(trainer, trouble)
    trainer.skipped_in_a_row = 0 if trouble is None else trainer.skipped_in_a_row + 1
    trainer.optimizer.zero_grad(set_to_none=True)
    updated = finite and trouble is None
    if updated and trainer.ema:
        trainer.ema.update(trainer.step + 1)
    with nullcontext() if updated else warnings.catch_warnings():
        if not updated:
            row["skipped"] = 1.0
            # torch warns when the schedule moves before the optimiser has; a skipped step counts as a step.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        trainer.scheduler.step()
    return True


def _find_trouble(trainer: BaseTrainer, row: dict[str, float], *, finite: bool, sound: bool) -> Trouble | None:
    if not sound:
        action = "skip" if trainer.range_test else trainer.settings.non_finite
        what = f"loss is {row['loss']:.4g}, gradient norm {row['grad_norm']:.4g}"
        return Trouble(what, action, "non_finite", NonFiniteError)
    spike = trainer.spikes.observe(row) if finite and trainer.spikes else None
    return None if spike is None else Trouble(spike, trainer.settings.spikes.action, "spikes.action", DivergenceError)


def _skip_or_stop(trainer: BaseTrainer, trouble: Trouble) -> None:
    found = f"step {trainer.step + 1}: {trouble.what}"
    if trouble.action == "stop":
        raise trouble.error(f"{found}; lower learning_rate, or set {trouble.setting} to skip or rollback")
    if trainer.skipped_in_a_row >= MAX_SKIPPED:
        raise trouble.error(f"{found}; {MAX_SKIPPED} steps in a row were skipped before it: lower learning_rate")
    trainer.precision.skip()
    note(trainer, trouble.what, "skip")


def _roll_back(trainer: BaseTrainer, trouble: Trouble) -> None:
    """Back to the last regular checkpoint, past the batches since: the same ones would diverge the same way."""
    folder = trainer._folder.checkpoint_of(trainer._folder.rollback_step(trainer.step))
    if trainer.rollbacks >= MAX_ROLLBACKS or folder is None:
        why = f"rolled back {trainer.rollbacks} times" if folder else "no valid checkpoint to roll back to"
        raise trouble.error(f"step {trainer.step + 1}: {trouble.what}; {why}: lower learning_rate")
    note(trainer, trouble.what, f"rollback to step {trainer._folder.rollback_step(trainer.step)}")
    kept = {name: getattr(trainer, name) for name in ("batches_taken", "rollbacks", "costs", "incidents")}
    trainer.load_checkpoint(folder)
    for name, value in kept.items():
        setattr(trainer, name, value)
    trainer.rollbacks, trainer.pending_batches = trainer.rollbacks + 1, []
    trainer._open_records()
