"""Settings of direct preference optimisation and its pairwise relatives."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from workbench.config import AtOnce
from workbench.data import forms
from workbench.objectives.preference import PREFERENCE_LOSSES
from workbench.trainer.batch_format import PAIRS, BatchFormat
from workbench.trainer.method import Method
from workbench.trainer.settings import TrainerSettings

H = "h = log π(chosen)/π_ref(chosen) − log π(rejected)/π_ref(rejected)"
PAIRWISE = {
    "loss": "pairwise loss summed over pairs, divided once by the number of pairs over the whole step",
    "h": "(policy - reference) of chosen minus (policy - reference) of rejected, nats",
}
"""The conventions of every pairwise loss."""


class PreferenceSettings(TrainerSettings):
    """A pairwise loss against a frozen reference, wherever the pairs come from."""

    needs_reference: ClassVar[bool] = True

    beta: PositiveFloat = 0.1
    """Strength of the tie to the reference; larger stays closer."""
    loss: Annotated[str, PREFERENCE_LOSSES] = "sigmoid"
    """Pairwise loss, by name (workbench/objectives/preference.py has the formulas)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of flipped labels, for cdpo and robust."""
    nll_weight: NonNegativeFloat = 0.0
    """Weight of an added negative log-likelihood term on the chosen completion (mean per token)."""
    starts_from_reference: bool = True
    """Check at step 1 that policy and reference agree; false where the reference is another model."""

    @model_validator(mode="after")
    def _loss_fits(self) -> PreferenceSettings:
        smoothed = PREFERENCE_LOSSES.that_read("label_smoothing")
        if self.loss in smoothed and not self.label_smoothing:
            raise ValueError(f"{self.loss} needs label_smoothing in (0, 0.5)")
        if self.label_smoothing and self.loss not in smoothed:
            raise ValueError(f"{self.loss} ignores label_smoothing; use {' or '.join(smoothed)}, or leave it 0")
        return self


class DPOSettings(PreferenceSettings):
    """Preference optimisation on pairs of completions against a frozen reference."""

    data_form = forms.PAIRS
    batch: ClassVar[BatchFormat | None] = PAIRS
    method: ClassVar[Method] = Method(
        name="DPO",
        formula=f"{{loss}}, {H}",
        learns_from="pairs of a better and a worse completion",
        paper="Rafailov et al. 2023, arXiv 2305.18290",
        when="preferences are at hand and sampling is dear; gains end where the pairs no longer look like what the "
        "policy writes",
        reference="the start, frozen; its log-probabilities are computed once",
        extras={"nll_weight": "and −log π(chosen) a token, weighted by nll_weight"},
        conventions={
            **PAIRWISE,
            "log-probabilities of a completion": "summed over its tokens, end included; the prompt does not count",
            "reference": "the start, frozen, without dropout; its log-probabilities per token are computed once and "
            "shared",
            "first step": "h must be 0 where the run starts from its reference, else the run stops",
            "rewards/*": "beta (policy - reference), summed over tokens",
        },
    )

    batch_pairs: AtOnce = 32
    """Pairs per optimiser step, over all processes."""

    def batch_rows_per_step(self) -> int:
        return self.batch_pairs
