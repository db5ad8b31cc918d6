"""Direct preference optimisation and its pairwise relatives (Rafailov et al. 2023, arXiv 2305.18290)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from workbench.trainer.settings import TrainerSettings


class DPOSettings(TrainerSettings):
    """Preference optimisation on pairs of completions against a frozen reference."""

    batch_pairs: PositiveInt = 32
    """Pairs per optimiser step, over all processes."""
    beta: PositiveFloat = 0.1
    """Strength of the tie to the reference; larger stays closer."""
    loss: Literal["sigmoid", "cdpo", "robust", "ipo", "ipo_sum", "hinge"] = "sigmoid"
    """Pairwise loss, by name (workbench/objectives/preference.py has the formulas)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of flipped labels, for cdpo and robust."""
    nll_weight: NonNegativeFloat = 0.0
    """Weight of an added negative log-likelihood term on the chosen completion (mean per token)."""

    def batch_rows_per_step(self) -> int:
        return self.batch_pairs
