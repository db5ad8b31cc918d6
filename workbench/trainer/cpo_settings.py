"""Settings of contrastive preference optimisation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat

from workbench.objectives.reference_free import CPO_LOSSES
from workbench.trainer.batch_format import PAIRS, BatchFormat
from workbench.trainer.method import REFERENCE_FREE, Measure, Method
from workbench.trainer.settings import TrainerSettings


class CPOSettings(TrainerSettings):
    """Contrastive preference optimisation: DPO's loss without its reference, and SFT on the chosen completion."""

    batch: ClassVar[BatchFormat | None] = PAIRS
    method: ClassVar[Method] = Method(
        name="CPO",
        formula="{loss}, π the summed log-probability of chosen (w) and rejected (l)",
        learns_from="pairs of a better and a worse completion",
        paper="Xu et al. 2024, arXiv 2401.08417",
        when="a reference is too dear and the chosen completions are good enough to imitate; summed log-probabilities "
        "favour short completions",
        extras={"nll_weight": "and −log π(chosen) a token, weighted by nll_weight"},
        score="logprob",
        conventions={**REFERENCE_FREE, "rewards/*": "beta times the summed log-probability"},
        measures=(Measure("nll_loss", "negative log-likelihood of chosen", "nats per token", better="lower"),),
    )

    beta: PositiveFloat = 0.1
    """Scale of the summed log-probabilities."""
    loss: Annotated[str, CPO_LOSSES] = "sigmoid"
    """Pairwise loss, by name (workbench/objectives/reference_free.py has the formulas)."""
    nll_weight: NonNegativeFloat = 1.0
    """Weight of the negative log-likelihood of the chosen completion (mean per token)."""
