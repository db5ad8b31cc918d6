"""Whether a step stands far above the steps before it: pure bookkeeping, saved with the checkpoint.

A step is judged by its loss and its gradient norm before clipping, against the mean and standard deviation of the
last finite ones, its own not among them (the rule of OLMo 2's skip-step optimiser, Team OLMo 2025). A spike joins the
window, so that a level that stays is soon the normal one.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from workbench.trainer.settings import Spikes

MEASURES = ("loss", "grad_norm")
ROUNDING = 1e-6
"""The least spread that counts, relative to the mean: values that are equal but for rounding have no spikes."""


class SpikeWatch:
    """Sees every step's loss and gradient norm."""

    def __init__(self, settings: Spikes) -> None:
        self.settings = settings
        self._seen: dict[str, list[float]] = {name: [] for name in MEASURES}

    def observe(self, row: dict[str, float]) -> str | None:
        """Take in a finite step; what stands out in it, or None. It judges once half its window is full."""
        if row["grad_norm"] == 0.0:
            return None  # an online step without a signal says nothing about what is normal
        found = [text for name in MEASURES if (text := self._judge(name, row[name]))]
        for name in MEASURES:
            self._seen[name] = [*self._seen[name], row[name]][-self.settings.window :]
        return " and ".join(found) or None

    def _judge(self, name: str, value: float) -> str | None:
        seen = self._seen[name]
        if len(seen) < self.settings.window // 2:
            return None
        mean = statistics.fmean(seen)
        spread = max(statistics.stdev(seen), ROUNDING * abs(mean))
        if not value - mean > self.settings.sigmas * spread:
            return None
        above = (value - mean) / spread if spread else math.inf
        return f"{name} {value:.4g} is {above:.3g} standard deviations above {mean:.4g}, the mean of {len(seen)} steps"

    def state_dict(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return self._seen

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror of state_dict."""
        self._seen = state
