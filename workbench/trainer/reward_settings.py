"""Settings of reward models, which score a text."""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeFloat

from workbench.data import forms
from workbench.tracking.names import LENGTH_CORRELATION, PAIR_ACCURACY, PAIR_MARGIN
from workbench.trainer.batch_format import PAIRS, BatchField, BatchFormat
from workbench.trainer.method import Measure, Method
from workbench.trainer.settings import TrainerSettings

STRONG = 0.5
"""A rank correlation of score and length from here on is warned of."""


class RewardSettings(TrainerSettings):
    """A score head on the policy's trunk, which scores the better completion of a pair above the worse one."""

    batch: ClassVar[BatchFormat | None] = PAIRS.and_also(
        BatchField("margins", "B", "numbers", "by how much chosen is to score above rejected", optional=True),
        data_form=forms.PAIRS_WITH_MARGINS,
    )
    scores_texts: ClassVar[bool] = True
    method: ClassVar[Method] = Method(
        name="reward model",
        paper="Ouyang et al. 2022, arXiv 2203.02155",
        formula="−log σ(r(chosen) − r(rejected) − margin), r the score at a text's last token",
        learns_from="pairs of a better and a worse completion, with a margin each where a column has one",
        when="what is better can be shown by examples and not be computed; the model is then the reward of GRPO or "
        "PPO, whose exact match says when it is no longer a sign of the task",
        extras={"center_rewards_coefficient": "and center_rewards_coefficient (r(chosen) + r(rejected))²"},
        conventions={
            "loss": "Bradley-Terry loss and centring term, each the mean over the step's pairs",
            "score": "a linear head without bias on the hidden state of the last real token, the end of sequence where "
            "the completion ended",
            "accuracy": "share of pairs whose chosen completion scores higher; a tie counts one half",
            PAIR_ACCURACY: "the same of held-out pairs",
            PAIR_MARGIN: "mean difference of the scores of held-out pairs: log odds, nats",
            LENGTH_CORRELATION: "Spearman's, of score and tokens over both completions of all held-out pairs; of "
            f"{STRONG} and beyond a warning says that length may be what is scored",
        },
        measures=(
            Measure("accuracy", "pair accuracy in training", "share", better="higher"),
            Measure("margin", "score margin in training"),
            Measure("mean_reward", "mean score in training"),
        ),
    )

    center_rewards_coefficient: NonNegativeFloat = 0.01
    """Weight of the squared sum of a pair's scores, which keeps scores about 0; 0 leaves their level open."""
