"""Settings of distillation from a teacher."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator

from workbench.config import AtOnce, NonNegativeInt
from workbench.trainer.batch_format import ROWS, BatchField, BatchFormat
from workbench.trainer.method import Measure, Method
from workbench.trainer.settings import Fraction, TrainerSettings


class DistillSettings(TrainerSettings):
    """Distillation (GKD): the student's distribution of each next token is drawn to a teacher's."""

    batch: ClassVar[BatchFormat | None] = ROWS.and_also(
        BatchField(
            *("teacher_logprobs", "B L V", "logprobs", "the teacher's, where a token is learned; absent: ref_model's"),
            optional=True,
        )
    )
    needs_teacher: ClassVar[bool] = True
    method: ClassVar[Method] = Method(
        name="distillation",
        formula="τ² D(p, s) a token, p the teacher's distribution and s the student's at temperature τ = "
        "loss_temperature; D = KL(p‖s) at beta 0, KL(s‖p) at beta 1, else beta KL(p‖m) + (1 − beta) KL(s‖m), "
        "m = beta p + (1 − beta) s",
        paper="Agarwal et al. 2023, arXiv 2306.13649",
        learns_from="prompts with completions, completions of its own, or both; and a teacher that scores them",
        when="a better model with the same vocabulary is at hand: it says more of each token than a label or a reward "
        "does; on the student's own samples it mends what the student really does, for the price of sampling",
        reference="the teacher, frozen",
        conventions={
            "loss": "divergence over the whole vocabulary, summed over the tokens that count, divided once by their "
            "number over the whole step",
            "tokens that count": "those of the completion with its end; the prompt is masked (-100)",
            "own samples": "each row of a step is, with probability on_policy_share, replaced by the student's own "
            "completion of its prompt; no gradient flows through the sampling (TRL draws once for the whole step)",
            "temperature": "τ divides the logits of both; TRL's loss has neither τ nor the factor τ²",
            "teacher": "frozen, without dropout; each of its passes is charged",
        },
        measures=(
            Measure("divergence/data", "divergence on data", "nats/token", better="lower"),
            Measure("divergence/student", "divergence on own samples", "nats/token", better="lower"),
        ),
    )

    batch_rows: AtOnce = 32
    """Rows per optimiser step, over all processes."""
    beta: Fraction = 0.5
    """0: forward KL, which covers the teacher; 1: reverse KL, which seeks what it likes best; between: generalised
    Jensen-Shannon, which is smaller the nearer beta is to either end."""
    loss_temperature: PositiveFloat = 1.0
    """The temperature τ at which both distributions are compared; the loss is multiplied by τ²."""
    on_policy_share: Fraction = 0.0
    """The share of rows (GKD's lambda) whose completion the student writes itself at each step; 0: the data's alone."""
    teacher_logprobs: Literal["each_step", "stored"] = "each_step"
    """each_step: the teacher reads what is learned; stored: what it says of the data, over the whole vocabulary, is
    computed once for all runs and epochs and kept on the disk, where that is not too large."""
    max_new_tokens: AtOnce = 64
    """Own completions are cut here."""
    temperature: PositiveFloat = 1.0
    """Temperature of sampling own completions."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Below 1 truncates the sampled distribution."""
    top_k: NonNegativeInt = 0
    """Above 0 truncates likewise."""

    def batch_rows_per_step(self) -> int:
        return self.batch_rows

    @property
    def own_completions(self) -> float:
        return self.on_policy_share

    @property
    def stores_teacher(self) -> bool:
        return self.teacher_logprobs == "stored"

    @model_validator(mode="after")
    def _stored_of_data_alone(self) -> DistillSettings:
        if self.stores_teacher and self.on_policy_share:
            raise ValueError(
                "teacher_logprobs: stored is of the data's completions, which on_policy_share replaces at each step; "
                "take each_step, or on_policy_share: 0"
            )
        return self
