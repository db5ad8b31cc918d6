"""What went wrong in a run, at which step and time, and what was done about it.

Kept in checkpoints, through rollbacks too, and left in status.json, which the report shows.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.trainer.base_trainer import BaseTrainer


def note(trainer: BaseTrainer, what: str, action: str) -> None:
    """Add to the trainer's account, and say so at once; a stop is said by the error that it is."""
    # A row that waits to be recorded is of the step that was made; without one, the next is being made.
    step = trainer.step + (trainer.pending_row is None)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    trainer.incidents = [*trainer.incidents, {"step": step, "what": what, "action": action, "at": at}]
    if action != "stop":
        trainer._progress.warn(f"step {step}: {what}: {action}")
