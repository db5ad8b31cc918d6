"""Settings of supervised fine-tuning."""

from __future__ import annotations

from typing import ClassVar

from workbench.config import AtOnce
from workbench.trainer.batch_format import ROWS, BatchFormat
from workbench.trainer.settings import Fraction, TrainerSettings


class SFTSettings(TrainerSettings):
    """Supervised fine-tuning on prompt and completion."""

    batch: ClassVar[BatchFormat | None] = ROWS

    batch_rows: AtOnce = 32
    """Rows per optimiser step, over all processes."""
    dropout: Fraction = 0.0
    """Dropout of the model's own layers while training, where its architecture has any."""

    def batch_rows_per_step(self) -> int:
        return self.batch_rows
