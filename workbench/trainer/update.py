"""The committed half of a step: the optimiser's update, or what `non_finite` says where there is none to make."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING

from workbench.errors import NonFiniteError

if TYPE_CHECKING:
    from workbench.trainer.base_trainer import BaseTrainer

MAX_ROLLBACKS = 3


def apply_update(trainer: BaseTrainer, row: dict[str, float]) -> bool:
    """Step optimiser and schedule, or do what `non_finite` says; False when the run was rolled back."""
    settings = trainer.settings
    finite = math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])
    sound = finite or (math.isfinite(row["loss"]) and trainer.precision.expects_overflow)
    if trainer.range_test:
        trainer.stopped_by = trainer.range_test.observe(row["loss"] if sound else math.nan, row["learning_rate"])
    if sound:
        trainer.precision.step(trainer.optimizer)
        if finite and trainer.ema:
            trainer.ema.update(trainer.step + 1)
    elif settings.non_finite == "skip" or trainer.range_test:
        trainer.precision.skip()
    else:
        found = f"step {trainer.step + 1}: loss is {row['loss']}, gradient norm {row['grad_norm']}"
        if settings.non_finite == "rollback":
            _roll_back(trainer, found)
            return False
        raise NonFiniteError(f"{found}; lower learning_rate, or set non_finite to skip or rollback")
    trainer.optimizer.zero_grad(set_to_none=True)
    with nullcontext() if finite else warnings.catch_warnings():
        if not finite:
            row["skipped"] = 1.0
            # torch warns when the schedule moves before the optimiser has; a skipped step counts as a step.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        trainer.scheduler.step()
    return True


def _roll_back(trainer: BaseTrainer, found: str) -> None:
    """Back to the last regular checkpoint, past the batches since: the same ones would diverge the same way."""
    folder = trainer._folder.checkpoint_of(trainer._folder.rollback_step(trainer.step))
    if trainer.rollbacks >= MAX_ROLLBACKS or folder is None:
        why = f"rolled back {trainer.rollbacks} times" if folder else "no valid checkpoint to roll back to"
        raise NonFiniteError(f"{found}; {why}: lower learning_rate")
    taken, rollbacks, costs = trainer.batches_taken, trainer.rollbacks + 1, trainer.costs
    trainer.load_checkpoint(folder)
    trainer.batches_taken, trainer.rollbacks, trainer.costs, trainer.pending_batches = taken, rollbacks, costs, []
    trainer._open_records()
