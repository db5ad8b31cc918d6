"""Settings of odds-ratio preference optimisation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveFloat

from workbench.trainer.batch_format import PAIRS, BatchFormat
from workbench.trainer.method import REFERENCE_FREE, Measure, Method
from workbench.trainer.settings import TrainerSettings


class ORPOSettings(TrainerSettings):
    """Odds-ratio preference optimisation: SFT on chosen completions, and a push away from rejected ones."""

    batch: ClassVar[BatchFormat | None] = PAIRS
    method: ClassVar[Method] = Method(
        name="ORPO",
        formula="−log π(chosen) a token, and β times −log σ(log odds(chosen) − log odds(rejected)) a pair",
        learns_from="pairs of a better and a worse completion",
        paper="Hong et al. 2024, arXiv 2403.07691",
        when="preferences are at hand, and there is neither an SFT model to begin from nor room for a reference: it is "
        "SFT and preference in one stage",
        score="mean_logprob",
        conventions={
            **REFERENCE_FREE,
            "odds": "p / (1 - p) of p = e^(mean log-probability a token), which is held at or below e^-1e-6",
            "log_odds_chosen": "mean log odds of chosen minus those of rejected, nats",
            "log_odds_ratio": "mean log sigmoid of that, as TRL names it",
            "rewards/*": "beta times the mean log-probability a token",
        },
        measures=(
            Measure("log_odds_chosen", "log odds ratio", "nats", better="higher"),
            Measure("nll_loss", "negative log-likelihood", "nats per token", better="lower"),
        ),
    )
    nll_weight: ClassVar[float] = 1.0
    """The likelihood term is what beta is measured by."""

    beta: PositiveFloat = 0.1
    """Weight of the odds ratio (the paper's lambda)."""
    nll_over: Literal["response", "prompt_and_response"] = "response"
    """Tokens whose likelihood is raised: of the chosen completion, or, as TRL does, of its prompt too."""
