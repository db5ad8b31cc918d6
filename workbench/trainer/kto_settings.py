"""Settings of Kahneman-Tversky optimisation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveFloat

from workbench.config import AtOnce
from workbench.trainer.batch_format import UNPAIRED, BatchFormat
from workbench.trainer.method import Measure, Method
from workbench.trainer.settings import TrainerSettings


class KTOSettings(TrainerSettings):
    """Kahneman-Tversky optimisation: completions that are wanted or not, each by itself, against a frozen reference."""

    needs_reference: ClassVar[bool] = True
    batch: ClassVar[BatchFormat | None] = UNPAIRED
    method: ClassVar[Method] = Method(
        name="KTO",
        formula="1 − σ(β (h − z)) of a wanted completion and 1 − σ(β (z − h)) of an unwanted one, each weighted; "
        "h = log π/π_ref, z the KL to the reference of mismatched completions",
        learns_from="completions that are wanted or not, or pairs taken apart",
        paper="Ethayarajh et al. 2024, arXiv 2402.01306",
        when="judgements are thumbs up or down and come in no pairs, or one kind is rare",
        reference="the start, frozen",
        conventions={
            "loss": "loss of a row summed over rows, divided once by their number over the whole step",
            "h": "policy minus reference, summed over the completion's tokens, end included, nats",
            "z": "mean h of the step's prompts with the completion of the nearest row before that has another prompt, "
            "cut where the model's positions end; over all processes and whatever the micro-batches; no gradient; at "
            "least 0. Held-out rows have that of their batch from val_loader, which stands for a step (so have DPO's "
            "losses over the step): eval/loss depends on the loader's batches, and not on micro_batch_rows",
            "rewards/*": "beta h: chosen is of wanted completions, rejected of unwanted ones",
            "reference": "the start, frozen, without dropout",
        },
        measures=(Measure("kl_mismatched", "KL of mismatched completions", "nats per sequence"),),
    )

    batch_rows: Annotated[AtOnce, Field(ge=2)] = 32
    """Rows per optimiser step, over all processes; the KL needs two or more."""
    beta: PositiveFloat = 0.1
    """Strength of the tie to the reference; larger stays closer."""
    desirable_weight: PositiveFloat = 1.0
    """Weight of a wanted completion; times their number it should be 1 to 4/3 of the same of unwanted ones."""
    undesirable_weight: PositiveFloat = 1.0
    """Weight of an unwanted completion."""

    @property
    def scoring_passes(self) -> int:
        return 3  # the reference reads the rows, and both models read mismatched ones
