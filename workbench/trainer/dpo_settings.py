"""Settings of direct preference optimisation and its pairwise relatives."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from workbench.config import Added, AtOnce, NonNegativeInt
from workbench.data import forms
from workbench.objectives.f_divergence import DIVERGENCES
from workbench.objectives.preference import PAIR_WEIGHTS, PREFERENCE_LOSSES
from workbench.trainer.batch_format import PAIRS, BatchFormat
from workbench.trainer.method import Method
from workbench.trainer.settings import Fraction, TrainerSettings

H = "h = log π(chosen)/π_ref(chosen) − log π(rejected)/π_ref(rejected)"
PAIRWISE = {
    "loss": "pairwise loss summed over pairs, divided once by the number of pairs over the whole step",
    "h": "(policy - reference) of chosen minus (policy - reference) of rejected, nats",
}
"""The conventions of every pairwise loss."""


class PreferenceSettings(TrainerSettings):
    """Pairwise losses against a reference, wherever the pairs come from."""

    needs_reference: ClassVar[bool] = True

    beta: PositiveFloat = 0.1
    """Strength of the tie to the reference; larger stays closer."""
    loss: Annotated[str | dict[str, float], PREFERENCE_LOSSES] = "sigmoid"
    """Pairwise loss, by name (workbench/objectives/preference.py has the formulas), or several, each with its weight:
    {sigmoid: 1.0, bco_pair: 0.5}."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of flipped labels, for cdpo, robust, exo_pair (its paper: 1e-3), aot and aot_unpaired."""
    discopop_tau: Annotated[float, Field(gt=0, le=1), Added] = 0.05
    """How soon discopop goes over from the logistic to the exponential loss."""
    divergence: Annotated[str, DIVERGENCES, Added] = "reverse_kl"
    """What ties the policy to the reference (f-DPO), for losses of a difference of two scores."""
    divergence_alpha: Annotated[float, Field(gt=0, lt=1), Added] = 0.5
    """divergence: alpha lies between the reverse KL at 0 and the forward KL at 1."""
    length_discount: Annotated[Fraction, Added] = 0.0
    """Share taken off tokens beyond the length of the pair's shorter completion (LD-DPO's 1 - alpha)."""
    pair_weighting: Annotated[str, PAIR_WEIGHTS, Added] = "none"
    """wpo: pairs that the policy might have written itself count more."""
    nll_weight: NonNegativeFloat = 0.0
    """Weight of an added negative log-likelihood term on the chosen completion (mean per token)."""
    starts_from_reference: bool = True
    """Check at step 1 that policy and reference agree; false where the reference is another model."""
    sync_reference_every: Annotated[NonNegativeInt, Added] = 0
    """Steps after which the reference moves to the policy (TR-DPO); 0: never. Its log-probabilities are then computed
    in each step."""
    sync_reference_weight: Annotated[float, Field(gt=0, le=1), Added] = 1.0
    """How far it moves: 1 becomes the policy, less mixes both (the paper's soft update)."""

    @property
    def reference_moves(self) -> bool:
        return self.sync_reference_every > 0

    @property
    def scoring_passes(self) -> int:
        over_step = any(PREFERENCE_LOSSES.all[name].over_step for name in PREFERENCE_LOSSES.chosen(self.loss))
        return self.reference_moves + over_step

    @model_validator(mode="after")
    def _losses_fit(self) -> PreferenceSettings:
        chosen = list(PREFERENCE_LOSSES.chosen(self.loss))
        for name in chosen:
            if "label_smoothing" in PREFERENCE_LOSSES.all[name].requires and not self.label_smoothing:
                raise ValueError(f"{name} needs label_smoothing in (0, 0.5)")
        for setting in ("label_smoothing", "discopop_tau"):
            default, readers = type(self).model_fields[setting].default, PREFERENCE_LOSSES.that_read(setting)
            if getattr(self, setting) != default and not set(chosen) & set(readers):
                named, others = " and ".join(chosen), ", ".join(readers[:-1])
                use = " or ".join(part for part in (others, readers[-1]) if part)
                raise ValueError(f"{named} ignores {setting}; use {use}, or leave it {default:g}")
        diverging = PREFERENCE_LOSSES.that_read("divergence")
        for name in chosen if self.divergence != DIVERGENCES.off else ():
            if name not in diverging:
                raise ValueError(
                    f"{name} has no form under another divergence than {DIVERGENCES.off}, for it is no function of a "
                    f"difference of two scores; use {', '.join(diverging)}"
                )
        for name in chosen if self.pair_weighting != PAIR_WEIGHTS.off else ():
            if PREFERENCE_LOSSES.all[name].over_step:
                raise ValueError(f"{name} compares all pairs of a step and cannot weigh them; leave pair_weighting out")
        return self

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> PreferenceSettings:
        if self.divergence_alpha != 0.5 and self.divergence != "alpha":
            raise ValueError(f"divergence_alpha is {self.divergence_alpha:g}, and divergence is not alpha")
        if self.sync_reference_weight != 1 and not self.reference_moves:
            raise ValueError("sync_reference_weight is of a reference that moves; set sync_reference_every")
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
        moved="a copy of the start, moved towards the policy every {sync_reference_every} steps by the weight "
        "{sync_reference_weight:g} (TR-DPO, Gorbatovski et al. 2024, arXiv 2404.09656); its log-probabilities are "
        "computed in each step, and charged",
        extras={
            "nll_weight": "and −log π(chosen) a token, weighted by nll_weight",
            "divergence": "a completion's log ratio u in it is {divergence}",
            "length_discount": "tokens beyond the length of the pair's shorter completion count 1 − length_discount in "
            "it (LD-DPO, arXiv 2409.06411)",
            "pair_weighting": "a pair counts {pair_weighting}",
        },
        conventions={
            **PAIRWISE,
            "log-probabilities of a completion": "summed over its tokens, end included; the prompt does not count",
            "reference": "the start, frozen, without dropout; its log-probabilities per token are computed once and "
            "shared",
            "first step": "h must be 0 where the run starts from its reference, else the run stops",
            "rewards/*": "beta (policy - reference), summed over tokens, whatever the loss makes of them",
        },
    )

    batch_pairs: AtOnce = 32
    """Pairs per optimiser step, over all processes."""

    def batch_rows_per_step(self) -> int:
        return self.batch_pairs
