"""What every trainer is told: optimiser, schedule, length, memory, precision, checkpoints, stopping."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator

from workbench.config import AtOnce, Free, NonNegativeInt, PositiveInt, Seconds, Seed, Settings
from workbench.data import forms
from workbench.data.forms import DataForm
from workbench.errors import DefinitionError
from workbench.trainer.batch_format import BatchFormat
from workbench.trainer.method import Method

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Remedy = Literal["stop", "skip", "rollback"]


class EarlyStopping(Settings):
    """Stop when a declared held-out metric no longer improves, and restore the best weights."""

    metric: str
    """The held-out metric that decides, such as eval/exact_match_greedy; never a training reward by default."""
    mode: Literal["max", "min"] = "max"
    """Whether larger or smaller is better."""
    patience: PositiveInt = 3
    """Evaluations without improvement before the run stops."""
    min_change: NonNegativeFloat = 0.0
    """A change counts as improvement only beyond this amount."""

    @model_validator(mode="after")
    def _held_out(self) -> EarlyStopping:
        if not self.metric.startswith("eval/"):
            raise ValueError(f"{self.metric} is measured on training data; choose a held-out metric, eval/...")
        return self


class Spikes(Settings):
    """What a step does whose loss or gradient norm stands far above the steps before it."""

    sigmas: PositiveFloat = 6.0
    """Standard deviations above the mean from which a step is a spike."""
    window: Annotated[int, Field(ge=8)] = 128
    """Steps that the mean is taken over; none is judged before half as many were made."""
    action: Remedy = "skip"
    """Stop the run, skip the step, or return to a checkpoint."""


COSTS_VERSION = 6
"""Version of how costs are counted (models/flops.py), which moves the end of a run with a budget."""


class Budget(Settings):
    """Ends a run when any of its limits is reached; collecting, reference and rollouts count too."""

    flops: PositiveFloat | None = None
    """Floating-point operations, by the formula the report states."""
    tokens: Annotated[int, Field(gt=0)] | None = None
    """Trained tokens, padding excluded."""
    seconds: Seconds | None = None
    """Wall-clock seconds, evaluation excluded."""

    @model_validator(mode="after")
    def _one_limit(self) -> Budget:
        if self.flops is None and self.tokens is None and self.seconds is None:
            raise ValueError("a budget needs one of flops, tokens, seconds")
        return self


class RunSettings(Settings):
    """The facts of a run, beside its hyperparameters: seed, end, machine, and when it is evaluated and saved."""

    budget: Budget | None = None
    """Ends the run; written in the definition as `budget`."""
    seed: Seed = 0
    """Data order and dropout; written in the definition as `sweep.seeds`."""

    micro_batch_rows: Annotated[AtOnce | None, Free] = None
    """Rows per forward and backward; about memory only, it never changes a number."""
    gradient_checkpointing: Annotated[bool, Free] = False
    """Compute each layer's activations again in the backward pass: less memory, about a third more time."""
    precision: Literal["float32", "bf16", "fp16", "fastest"] = "fastest"
    """Autocast dtype; fastest: bf16 on a GPU that has it else fp16, on a CPU what a timed probe finds (printed)."""
    device: Annotated[Literal["cpu", "cuda"] | None, Free] = None
    """Where to train; when absent CUDA if there is a GPU, else the CPU. Not part of the fingerprint."""
    deterministic: Annotated[bool, Free] = True
    """A GPU adds up in one order, so that a resume is exact; false: in any, which is faster, and a resume is marked."""

    evaluate_every: NonNegativeInt = 0
    """Steps between evaluations; 0: only before the first and after the last step."""
    checkpoint_every: Annotated[NonNegativeInt, Free] = 0
    """Steps between checkpoints; 0: by time alone, when interrupted, and at the end."""
    checkpoint_seconds: Annotated[NonNegativeFloat, Free] = 120.0
    """Seconds between checkpoints; 0: never by time."""
    keep_checkpoints: Annotated[PositiveInt, Free] = 2
    """The newest checkpoints kept, besides the best."""

    def free_fields(self) -> set[str]:
        free = super().free_fields()
        if self.budget is not None and self.budget.flops is not None:
            # What is computed again is charged, and padding as the rows were asked to be cut: both move the run's end.
            free -= {"gradient_checkpointing", "micro_batch_rows"}
        return free


class TrainerSettings(RunSettings):
    """The hyperparameters that every trainer shares. A step is an optimiser step; batches are global per step."""

    data_form: ClassVar[DataForm] = forms.ROWS
    """What the trainer learns from; an own trainer's settings may say it by its name."""
    needs_reference: ClassVar[bool] = False
    """Whether its pairs come with a reference's log-probabilities, which are computed before the run and charged."""
    scores_texts: ClassVar[bool] = False
    """Whether a run leaves a reward model, which scores texts and completes none, in the place of a language model."""
    needs_teacher: ClassVar[bool] = False
    """Whether it learns from another model, which a definition names as `teacher`; a script passes it as ref_model."""
    method: ClassVar[Method | None] = None
    """What the method says of itself, each class of its own: a class that says nothing has its docstring's first line.
    """
    batch: ClassVar[BatchFormat | None] = None
    """The keys of its batches; None: an own trainer's, which nothing checks but itself. Where it is given, and nothing
    else tells a batch's size, there is a setting batch_rows, batch_pairs or batch_prompts of 32."""

    steps: PositiveInt | None = None
    """Optimiser steps; when absent, `epochs` decides."""
    epochs: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Passes over the rows of the training data, used when `steps` is absent; the last step takes those left."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon on hidden matrices (LoRA's among them), AdamW on embeddings, output head and vectors."""
    learning_rate: NonNegativeFloat = 1.0e-3
    """Peak learning rate; Muon's updates are scaled so that AdamW's rates carry over."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled decay, on matrices only (no biases, no norms)."""
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moments."""
    adam_epsilon: PositiveFloat = 1.0e-8
    """AdamW's denominator offset."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Global norm that gradients are clipped to; null turns clipping off."""
    schedule: Literal["constant", "linear", "cosine", "warmup_stable_decay", "range_test"] = "constant"
    """Shape of the learning rate after warm-up; range_test rises exponentially, to find a rate (Smith 2015)."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up from zero."""
    decay_fraction: Fraction = 0.2
    """warmup_stable_decay: the share of all steps that the final decay takes."""
    min_learning_rate_ratio: Fraction = 0.0
    """The floor of linear, cosine and warmup_stable_decay, and where range_test begins, as a share of the peak."""
    range_test_stop: Annotated[float, Field(gt=1)] = 4.0
    """range_test: the run ends when the smoothed loss exceeds this many times its lowest value."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which is evaluated and saved; null: no average."""

    early_stopping: EarlyStopping | None = None
    """Stop on a held-out metric; absent: never."""
    non_finite: Remedy = "stop"
    """What a NaN or infinity in loss or gradient does: stop the run, skip the step, or return to a checkpoint."""
    spikes: Spikes | None = None
    """What a finite step that stands out does; absent: it is taken like any other."""

    @classmethod
    def num_texts(cls) -> int:
        """Texts that a row of an update's batch holds: a pair has two."""
        return max(1, cls.data_form.num_completions)

    @property
    def updates_per_rollout(self) -> int:
        """Optimiser steps that one of the loader's batches gives."""
        return 1

    @property
    def stores_teacher(self) -> bool:
        """Whether what the teacher says of the data is computed once, before the run, which is charged for it."""
        return False

    @property
    def own_completions(self) -> float:
        """The number of completions by the model itself that stand in the place of a row, on average over a step: 0, or
        the share of rows that are completed anew."""
        return 0.0

    @property
    def trained_trunks(self) -> int:
        """Models of the policy's size that are trained beside it."""
        return 0

    @property
    def reference_moves(self) -> bool:
        """Whether the reference changes while the run trains, so that nothing of it can be computed before."""
        return False

    @property
    def scoring_passes(self) -> int:
        """Passes without gradient over a step's rows that come before its own: of a reference, or for a statistic."""
        return 0

    @property
    def rolls_back(self) -> bool:
        """Whether a step in trouble may return to a checkpoint; then the cadence of checkpoints decides numbers."""
        return self.non_finite == "rollback" or (self.spikes is not None and self.spikes.action == "rollback")

    def free_fields(self) -> set[str]:
        """checkpoint_every decides numbers where a step in trouble returns to a regular checkpoint."""
        return super().free_fields() - ({"checkpoint_every"} if self.rolls_back else set())

    @model_validator(mode="after")
    def _rollback_has_a_target(self) -> TrainerSettings:
        if self.rolls_back and not self.checkpoint_every:
            name = "non_finite" if self.non_finite == "rollback" else "spikes.action"
            raise ValueError(f"{name}: rollback returns to a regular checkpoint; set checkpoint_every")
        return self

    @model_validator(mode="after")
    def _range_test_has_a_range(self) -> TrainerSettings:
        if self.schedule == "range_test" and (self.warmup_steps or not 0 < self.min_learning_rate_ratio < 1):
            raise ValueError(
                "schedule: range_test rises from min_learning_rate_ratio x learning_rate to learning_rate; set "
                "min_learning_rate_ratio between 0 and 1 (such as 1.0e-5), and warmup_steps to 0"
            )
        if self.schedule == "range_test" and self.spikes is not None:
            raise ValueError("spikes: a range test ends where the loss rises; leave spikes out")
        return self

    def __init_subclass__(cls, **options: Any) -> None:
        """Own settings that name their batch get what they do not say themselves: its data form and its size."""
        super().__init_subclass__(**options)
        where = f"{cls.__module__}.{cls.__name__}"
        if isinstance(cls.data_form, str):
            cls.data_form = forms.form_named(cls.data_form, where)
        for name, annotation in inspect.get_annotations(cls).items():
            taken = hasattr(TrainerSettings, name) and name not in TrainerSettings.model_fields
            if taken and "ClassVar" not in str(annotation):
                raise DefinitionError(f"{where}: {name} is a name of TrainerSettings; give the setting another one")
        for name, allowed in {"data_form": DataForm, "batch": BatchFormat, "method": Method}.items():
            value = vars(cls).get(name)
            if value is not None and not isinstance(value, allowed):
                raise DefinitionError(f"{where}: {name} is {value!r}, allowed a {allowed.__name__}")
        if cls.batch is None:
            return
        if cls.batch.data_form is not None and not any("data_form" in vars(base) for base in _below(cls)):
            cls.data_form = cls.batch.data_form
        size = cls.data_form.batch_setting
        counted = any("batch_rows_per_step" in vars(base) for base in _below(cls))
        if not counted and not any(size in inspect.get_annotations(base) for base in _below(cls)):
            about = f"{cls.data_form.units.capitalize()} per optimiser step, over all processes."
            cls.__annotations__ = inspect.get_annotations(cls) | {size: AtOnce}
            setattr(cls, size, Field(default=32, description=about))

    @classmethod
    def about(cls) -> str:
        """The first line of the class's own docstring."""
        return (vars(cls).get("__doc__") or "a trainer whose settings have no docstring").strip().partition("\n")[0]

    @classmethod
    def described(cls) -> Method:
        """What the method says of itself; of settings without a `method` of their own, what docstring and data say."""
        if "method" in vars(cls):
            assert cls.method is not None, "the base alone describes no method"
            return cls.method
        return Method(
            name=cls.__name__.removesuffix("Settings"),
            formula=cls.about(),
            learns_from=cls.data_form.units,
            samples=cls.data_form.is_sampled,
            reference="the start, frozen" if cls.needs_reference else "",
        )

    @classmethod
    def batch_problem(cls) -> str | None:
        """What own settings must say that they do not, and how; None where nothing is missing."""
        form, size = cls.data_form, cls.data_form.batch_setting
        of_batch = cls.batch.data_form if cls.batch is not None else None
        if of_batch is not None and of_batch.unit != form.unit:
            return f"data_form is {form.name!r}, but the batch is of {of_batch.name}; leave data_form out"
        if cls.batch_rows_per_step is TrainerSettings.batch_rows_per_step and size not in cls.model_fields:
            return (
                "nothing tells the size of a batch; write `batch = ROWS` in the class (or PAIRS or PROMPTS, of "
                f"workbench.trainer.batch_format), or a field `{size}: int = 32`"
            )
        return None

    def batch_rows_per_step(self) -> int:
        """Rows (or pairs, or prompts) that one optimiser step takes over all processes."""
        return int(getattr(self, self.data_form.batch_setting))


def _below(cls: type) -> list[type]:
    """The class and its bases below TrainerSettings."""
    return list(cls.__mro__[: cls.__mro__.index(TrainerSettings)])
