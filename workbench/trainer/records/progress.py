"""Rate and time left of a training run, and the plain lines that report them."""

from __future__ import annotations

import time
from typing import Any

from workbench.tracking.durations import format_duration
from workbench.tracking.terminal import complain
from workbench.tracking.words import plural


class Progress:
    """Prints a line at most every few seconds, and always for an evaluation or the last step."""

    def __init__(self, num_steps: int, enabled: bool, every_seconds: float = 10.0) -> None:
        self.num_steps = num_steps
        self.enabled = enabled
        self.every_seconds = every_seconds
        self._started_at = self._printed_at = time.monotonic()
        self._first_step: int | None = None

    def announce(self, what: str, choices: dict[str, Any]) -> None:
        """One line before the first step: what runs, and what was chosen for it."""
        if self.enabled:
            chosen = ", ".join(f"{name} {value}" for name, value in choices.items())
            _say(f"{what}, {plural(self.num_steps, 'step', '')} ({chosen})")

    def warn(self, text: str) -> None:
        """One line at once."""
        if self.enabled:
            _say(f"warning: {text}")

    def report(self, step: int, row: dict[str, float], extra: str = "") -> None:
        """Say where the run is: step, loss, held-out metrics, rate, time left."""
        now = time.monotonic()
        if self._first_step is None:
            self._first_step, self._started_at = step, now
        held_out = {name: value for name, value in row.items() if name.startswith("eval/")}
        due = now - self._printed_at >= self.every_seconds or held_out or step == self.num_steps
        if not (self.enabled and due):
            return
        self._printed_at = now
        parts = [f"step {step}/{self.num_steps}"]
        if "loss" in row:
            parts.append(f"loss {row['loss']:.4f}")
        parts += [f"{name} {value:.4g}" for name, value in held_out.items()]
        steps_done = step - self._first_step
        if steps_done and now > self._started_at:
            rate = steps_done / (now - self._started_at)
            parts.append(f"{rate:.3g} steps/s, {format_duration((self.num_steps - step) / rate)} left")
        if extra:
            parts.append(extra)
        _say("  ".join(parts))


def _say(line: str) -> None:
    """No run ends for a line that a full disk, or whoever has gone, does not take."""
    complain(line)
