"""The state of a run: plain values that the loop changes from step to step, every one of them in each checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from workbench.trainer.records.costs import Costs


@dataclass
class RunState:
    """The beginning of a run, until something is changed or loaded. All values are JSON values, or become such."""

    step: int = 0
    """Optimiser steps that were made."""
    costs: Costs = field(default_factory=Costs)
    """What the run has spent so far, over all processes."""
    pending_row: dict[str, Any] | None = field(default_factory=lambda: {"step": 0})
    """The row of a step that is not evaluated and recorded yet; step 0 has an evaluation and no training."""
    pending_completions: list[dict[str, Any]] = field(default_factory=list)
    """Rows of completions.jsonl that are recorded with the pending row."""
    log_info: str = ""
    """What a method adds to the printed line of the pending row."""
    last_row: dict[str, Any] = field(default_factory=dict)
    """The row that was recorded last."""
    stopped_by: str | None = None
    """Why the run ends before its last step: early_stopping, or a sentence that names the budget or the range test."""
    restored_best: bool = False
    """Whether the model has the weights of an earlier step again, which early stopping found the best."""
    warnings: list[str] = field(default_factory=list)
    incidents: list[dict[str, Any]] = field(default_factory=list)
    """What went wrong, at which step and time, and what was done about it; kept through rollbacks."""
    inexact: list[str] = field(default_factory=list)
    """The steps from which on the run may differ from one that was never interrupted, and why."""

    @property
    def recorded_step(self) -> int:
        """The last step whose row is recorded; -1 where none is."""
        return self.step - 1 if self.pending_row is not None else self.step

    def note(self, what: str, action: str) -> str:
        """Add an incident; the line that tells of it."""
        # A row that waits to be recorded is of the step that was made; without one, the next is being made.
        step = self.step + (self.pending_row is None)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.incidents.append({"step": step, "what": what, "action": action, "at": at})
        return f"step {step}: {what}: {action}"

    def mark_inexact(self, changed: list[str]) -> None:
        """Remember that the run was resumed under other conditions, if there are any."""
        if changed:
            text = f"not exact from step {self.step} on: resumed under {'; '.join(changed)}"
            self.inexact.append(text)
            self.warnings.append(text)

    def state_dict(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"costs": self.costs.as_json()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror of state_dict."""
        for each in fields(self):
            setattr(self, each.name, state[each.name])
        self.costs = Costs.of(state["costs"])
