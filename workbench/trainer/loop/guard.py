"""Whether the update of a step may be made: numbers that are not finite, spikes, and the end of a range test.

The guard judges, and never acts: the loop does what its verdict says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from workbench.errors import DivergenceError, NonFiniteError
from workbench.trainer.loop.range_test import RangeTest
from workbench.trainer.loop.spikes import SpikeWatch
from workbench.trainer.settings import Remedy, TrainerSettings

MAX_ROLLBACKS = 3
MAX_SKIPPED = 20
"""Steps skipped one after another before the run stops: what then diverges is the model, not a batch."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done with a step, and why."""

    action: Literal["update", "overflow", "skip", "rollback", "stop"] = "update"
    """overflow: an update that fp16's scaler skips itself, to lower its scale. stop: the run cannot go on."""
    step: int = 0
    what: str = ""
    """What is wrong with the step; empty where nothing is."""
    remedy: str = ""
    """What a user can do where the run stops."""
    kind: type[DivergenceError] = DivergenceError
    ends_run: str | None = None
    """Why the run ends after this step, whatever becomes of it; None where it goes on."""

    def error(self, remedy: str = "") -> DivergenceError:
        """What ends a run that cannot go on. remedy: in place of the verdict's own."""
        return self.kind(f"step {self.step}: {self.what}; {remedy or self.remedy}")


class Guard:
    """Sees the loss and the gradient norm of every step before its update."""

    def __init__(self, settings: TrainerSettings, num_steps: int) -> None:
        self._settings = settings
        ranging = settings.schedule == "range_test"
        self.range_test = RangeTest(num_steps, settings.range_test_stop) if ranging else None
        self.spikes = SpikeWatch(settings.spikes) if settings.spikes else None
        self.rollbacks, self.skipped_in_a_row = 0, 0

    def judge(self, step: int, row: dict[str, float], *, expects_overflow: bool) -> Verdict:
        """step: the one to be made, counted from 1. expects_overflow: whether a gradient that is not finite may be one
        that a lower scale mends."""
        loss, norm = row["loss"], row["grad_norm"]
        finite = math.isfinite(loss) and math.isfinite(norm)
        sound = finite or (math.isfinite(loss) and expects_overflow)
        ends = None
        if self.range_test:
            ends = self.range_test.observe(loss if sound else math.nan, row["learning_rate"])
        spike = self.spikes.observe(row) if finite and self.spikes else None
        if not sound:
            action: Remedy = "skip" if self.range_test else self._settings.non_finite
            what = f"loss is {loss:.4g}, gradient norm {norm:.4g}"
            verdict = self._trouble(action, "non_finite", Verdict(step=step, what=what, kind=NonFiniteError))
        elif spike is not None and self._settings.spikes is not None:
            verdict = self._trouble(self._settings.spikes.action, "spikes.action", Verdict(step=step, what=spike))
        else:
            verdict = Verdict("update" if finite else "overflow", step)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if verdict.what else 0
        return replace(verdict, ends_run=ends)

    def _trouble(self, action: Remedy, setting: str, found: Verdict) -> Verdict:
        """The verdict that the setting names, as often as that is allowed."""
        if action == "skip" and self.skipped_in_a_row >= MAX_SKIPPED:
            remedy = f"{MAX_SKIPPED} steps in a row were skipped before it: lower learning_rate"
        elif action == "rollback" and self.rollbacks >= MAX_ROLLBACKS:
            remedy = f"rolled back {self.rollbacks} times: lower learning_rate"
        else:
            remedy = f"lower learning_rate, or set {setting} to skip or rollback"
            return replace(found, action=action, remedy=remedy)
        return replace(found, action="stop", remedy=remedy)

    def state_dict(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return {
            "rollbacks": self.rollbacks,
            "skipped_in_a_row": self.skipped_in_a_row,
            "range_test": self.range_test.state_dict() if self.range_test else None,
            "spikes": self.spikes.state_dict() if self.spikes else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror of state_dict."""
        self.rollbacks, self.skipped_in_a_row = state["rollbacks"], state["skipped_in_a_row"]
        if self.range_test:
            self.range_test.load_state_dict(state["range_test"])
        if self.spikes:
            self.spikes.load_state_dict(state["spikes"])
