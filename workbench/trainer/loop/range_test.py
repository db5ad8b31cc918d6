"""The end of a learning-rate range test: pure bookkeeping, saved with the checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

SPAN = 0.05
"""The share of a run's steps that the loss is smoothed over; analysis/range_test.py draws and reads it so too."""


@dataclass
class RangeTestState:
    """The running average of the loss, its weight (for the bias correction), and the lowest corrected average."""

    average: float = 0.0
    weight: float = 0.0
    lowest: float = math.inf


class RangeTest:
    """Follows the training loss while the learning rate rises, until it has clearly left its lowest value."""

    def __init__(self, num_steps: int, stop_ratio: float) -> None:
        """stop_ratio: how many times its lowest value the smoothed loss may reach."""
        self._keep = max(0.0, 1.0 - 2.0 / (SPAN * num_steps + 1.0))
        self._stop_ratio = stop_ratio
        self.state = RangeTestState()

    def observe(self, loss: float, learning_rate: float) -> str | None:
        """Take in a step's loss; why the run ends here, or None."""
        if not math.isfinite(loss):
            return f"range_test: the loss is not finite at learning rate {learning_rate:.3g}"
        state = self.state
        state.average = self._keep * state.average + (1.0 - self._keep) * loss
        state.weight = self._keep * state.weight + (1.0 - self._keep)
        smoothed = state.average / state.weight
        state.lowest = min(state.lowest, smoothed)
        # The limit is written with the difference, so that a loss below zero (robust DPO's) has one above it too.
        if smoothed - state.lowest > (self._stop_ratio - 1.0) * abs(state.lowest):
            return (
                f"range_test: the smoothed loss {smoothed:.4g} exceeds {self._stop_ratio:g} times its lowest, "
                f"{state.lowest:.4g}, at learning rate {learning_rate:.3g}"
            )
        return None

    def state_dict(self) -> dict[str, float | None]:
        return {name: value if math.isfinite(value) else None for name, value in asdict(self.state).items()}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        self.state = RangeTestState(**{name: math.inf if value is None else value for name, value in state.items()})
