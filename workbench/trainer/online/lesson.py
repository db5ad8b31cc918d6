"""What a method makes of a rollout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from workbench.trainer.loop.batches import Batch
from workbench.trainer.online.rollout import Rollout


@dataclass(frozen=True)
class Lesson:
    """The rows that update batches are cut from, and what is recorded of the rollout's N completions."""

    rollout: Rollout
    """The rollout as it is learned from, with the log-probabilities that the method asked for."""
    advantages: torch.Tensor
    """(N,) or (N, T), as completions.jsonl tells them: of several a completion their mean."""
    rows: Batch
    """Columns beside the rollout's own where a row is a completion; whole batches where it is not, such as pairs."""
    learned: torch.Tensor | None = None
    """(N,) bool: completions without which no gradient moves are false, and are not computed; None: all are true."""
    state: dict[str, Any] = field(default_factory=dict)
    """Entries of the method's own state that change once the updates are taken (see Updates)."""

    def shown_advantages(self) -> torch.Tensor:
        """(N,) one number for each completion."""
        if self.advantages.ndim == 1:
            return self.advantages
        return (self.advantages * self.rollout.completion_mask).sum(1) / self.rollout.lengths
