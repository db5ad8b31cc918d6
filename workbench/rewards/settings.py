"""The rewards that a definition may name: hyperparameters.rewards, a list of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from workbench.config import AtOnce, Free, GivenPath, PositiveInt, Seconds, Settings

KINDS = ("reward", "format", "regex", "length", "model", "model_from", "file")
_MODELS = ("model", "model_from")
_OPTIONS = {
    "graded": ("format",),
    "match": ("regex",),
    "label": _MODELS,
    "chat_template": _MODELS,
    "max_tokens": _MODELS,
    "batch_rows": _MODELS,
    "function": ("file",),
    "workers": ("file",),
    "timeout_seconds": ("file",),
}
"""Fields that only some kinds have."""


class _Sparse(Settings):
    """Written without its defaults: of an entry's many fields, one kind has few."""

    @model_serializer(mode="wrap")
    def _only_what_was_said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        return {name: value for name, value in write(self).items() if getattr(self, name) != defaults[name]}


class LengthSettings(_Sparse):
    """A reward of the completion's length. Exactly one of target, buffer."""

    target: PositiveInt | None = None
    """Tokens wished for: 1 there, declining linearly to 0 at no tokens and at `maximum`."""
    buffer: PositiveInt | None = None
    """DAPO's soft overlong punishment (Yu et al. 2025, arXiv 2503.14476, eq. 13): 0 up to maximum - buffer tokens,
    declining linearly to -1 at maximum and beyond."""
    maximum: PositiveInt | None = None
    """Tokens at which the decline ends; none: twice the target, and max_new_tokens with a buffer."""

    @model_validator(mode="after")
    def _one_shape(self) -> LengthSettings:
        if (self.target is None) == (self.buffer is None):
            raise ValueError("length needs exactly one of target, buffer")
        if self.maximum is not None and self.target is not None and self.maximum <= self.target:
            raise ValueError(f"maximum is {self.maximum}; it must be > target ({self.target})")
        if self.maximum is not None and self.buffer is not None and self.maximum < self.buffer:
            raise ValueError(f"maximum is {self.maximum}; it must be >= buffer ({self.buffer})")
        return self


class RewardSettings(_Sparse):
    """One reward. Exactly one of reward, format, regex, length, model, model_from, file."""

    reward: Literal["exact", "number", "math", "countdown", "sort", "reasoning_gym"] | None = None
    """A built-in check against the prompt's answer: 1 or 0. number: one plain number; math: LaTeX, through math-verify.
    Those of tasks also ask that the completion ended."""
    format: Literal["gsm8k", "boxed", "think_answer"] | None = None
    """The completion's form, whatever it says. gsm8k: the last line is #### and a number; boxed: it ends in
    \\boxed{...}; think_answer: it is <think>...</think><answer>...</answer>. 1 or 0."""
    graded: bool = False
    """format: the share of the form's parts that are there, instead of 1 or 0."""
    regex: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    """A pattern that the completion matches: 1 or 0. Its \\d, \\w, \\s are ASCII's; . leaves line breaks out."""
    match: Literal["whole", "search"] = "whole"
    """regex: whole: all of the completion; search: anywhere in it."""
    length: LengthSettings | None = None
    """A reward of the number of tokens."""
    model: GivenPath | None = None
    """Folder of a sequence classifier as safetensors; the reward is its logit for prompt and completion."""
    model_from: Annotated[str, Field(min_length=1)] | dict[str, Any] | None = None
    """The run whose reward model it is: the name of its experiment, or {experiment, variant, seed}, as of a start."""
    label: str | None = None
    """model: whose logit, where the classifier has several labels."""
    chat_template: bool = False
    """model: render prompt and completion as turns through the classifier's chat template, else one after the other."""
    max_tokens: PositiveInt | None = None
    """model: tokens read at most, the beginning is left out; none: as many as its positions."""
    batch_rows: Annotated[AtOnce, Free] = 16
    """model: completions scored at once."""
    file: GivenPath | None = None
    """Own Python, run only with --allow-reward-code."""
    function: str = "reward"
    """file: the function called as TRL calls its own, in a process of its own: with the lists prompts, completions,
    completion_ids, answers, num_tokens, ended and the data's columns, and with trainer_state, log_metric, log_extra, of
    these the ones that it takes; it gives a number for each completion, or None for no opinion. It may be async."""
    workers: Annotated[int, Field(ge=1, le=256), Free] = 1
    """file: processes that the completions are divided over, each called with one at a time; 1: called with all."""
    timeout_seconds: Annotated[Seconds | None, Free] = None
    """file: of one completion, each called for alone; over it the run stops. none: no limit."""
    weight: float = 1.0
    """Factor in the sum; 0: reported only."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    """Its name in metrics; needed where its kind does not tell it apart."""

    @model_validator(mode="after")
    def _one_kind(self) -> RewardSettings:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"found {' and '.join(given) or 'none of them'}, allowed exactly one of {', '.join(KINDS)}"
            )
        for option, kinds in _OPTIONS.items():
            if given[0] not in kinds and getattr(self, option) != type(self).model_fields[option].default:
                raise ValueError(f"{option} belongs to {kinds[0]}, found it with {given[0]}")
        return self

    @field_validator("regex")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        if value is not None:
            from workbench.rewards.pattern import compile_pattern

            compile_pattern(value)
        return value

    @property
    def one_at_a_time(self) -> bool:
        """Whether own code is called with single completions."""
        return self.workers > 1 or self.timeout_seconds is not None

    @property
    def kind(self) -> str:
        """Which of KINDS it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def label_in_metrics(self) -> str:
        """Its name, else what tells it best: the check, the form, the function, or the kind."""
        told = {"reward": self.reward, "format": self.format, "file": self.function, "model_from": "model"}
        return self.name or told.get(self.kind) or self.kind

    def of_folder(self, folder: str) -> Self:
        """The same reward by the model of a folder, where that of a run was named."""
        return self.model_copy(update={"model": folder, "model_from": None})
