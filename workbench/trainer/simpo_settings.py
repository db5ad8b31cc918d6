"""Settings of simple preference optimisation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat

from workbench.trainer.batch_format import PAIRS, BatchFormat
from workbench.trainer.method import REFERENCE_FREE, Measure, Method
from workbench.trainer.settings import TrainerSettings


class SimPOSettings(TrainerSettings):
    """Simple preference optimisation: mean log-probabilities a token, apart by a target margin; no reference."""

    batch: ClassVar[BatchFormat | None] = PAIRS
    method: ClassVar[Method] = Method(
        name="SimPO",
        formula="−log σ(β (m_w − m_l) − γ), m the mean log π a token of chosen (w) and rejected (l)",
        learns_from="pairs of a better and a worse completion",
        paper="Meng et al. 2024, arXiv 2405.14734",
        when="a reference is too dear, or DPO's completions grow long; nothing ties it to the start, so the learning "
        "rate must be small",
        extras={
            "nll_weight": "and −log π(chosen) a token, weighted by nll_weight",
            "alpha": "m made (1 − e^(−α m)) / α",
        },
        score="mean_logprob",
        conventions={**REFERENCE_FREE, "rewards/*": "beta m, in AlphaPO's shape where alpha is not 0"},
        measures=(Measure("nll_loss", "negative log-likelihood of chosen", "nats per token", better="lower"),),
    )

    beta: PositiveFloat = 2.0
    """Scale of the reward (2 to 10 in the paper)."""
    gamma: NonNegativeFloat = 1.0
    """The margin that rewards are to have, outside of beta (0.3 to 1.6 in the paper)."""
    alpha: Annotated[float, Field(ge=-2, le=2)] = 0.0
    """Shape of the reward (AlphaPO, arXiv 2501.03884); 0: the mean log-probability itself."""
    nll_weight: NonNegativeFloat = 0.0
    """Weight of an added negative log-likelihood term on the chosen completion (mean per token)."""
