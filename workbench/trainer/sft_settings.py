"""Settings of supervised fine-tuning."""

from __future__ import annotations

from typing import ClassVar

from workbench.config import AtOnce
from workbench.trainer.batch_format import ROWS, BatchFormat
from workbench.trainer.method import Method
from workbench.trainer.settings import Fraction, TrainerSettings


class SFTSettings(TrainerSettings):
    """Supervised fine-tuning on prompt and completion."""

    batch: ClassVar[BatchFormat | None] = ROWS
    method: ClassVar[Method] = Method(
        name="SFT",
        formula="−log π(token | prompt, completion before it), mean over completion tokens",
        learns_from="prompts with the completions to imitate",
        when="good demonstrations exist: the cheapest and steadiest step, and the start of all others; it cannot do "
        "better than what it imitates",
        conventions={
            "loss": "cross-entropy summed over the tokens that count, divided once by their number over the whole step",
            "dropout": "the model's own, while training only",
            "tokens that count": "those of the completion with its end; the prompt is masked (-100)",
        },
    )

    batch_rows: AtOnce = 32
    """Rows per optimiser step, over all processes."""
    dropout: Fraction = 0.0
    """Dropout of the model's own layers while training, where its architecture has any."""

    def batch_rows_per_step(self) -> int:
        return self.batch_rows
