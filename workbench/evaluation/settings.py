"""What is measured on held-out data, and when."""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from workbench.config import MAX_MADE, AtOnce, GivenPath, Made, NonNegativeInt, Seed, Settings
from workbench.data.settings import TaskSettings, check_gym
from workbench.generation.sampling import SamplingSettings

FILE_NEW_TOKENS = 256
SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
WHEN_ASKED = ("name", "samples", "pass_at", "majority_at")
"""Fields that are written down only where they were asked for: runs from before they existed are still valid."""

MAX_SAMPLES = 1024
SampleCounts = list[Annotated[int, Field(ge=1, le=MAX_SAMPLES)]]
KL_VERSION = 1
"""Version of the estimator of eval/kl_start (evaluation/kl.py); values of different versions are not compared."""


class EvaluateSettings(Settings):
    """A task's held-out prompts, a prompt-completion file, a preference file, a split, or several of them. A list holds
    several such sets, each with a name."""

    name: str | None = None
    """The set's name, which each set of a list has: the metrics of all but the deciding one are eval/<name>/..."""
    decides: Annotated[bool, Field(exclude=True)] = False
    """Whether this set of a list decides, and bears the plain names eval/...; the first does where none says so."""
    task: Literal["sort", "countdown", "reasoning_gym"] | None = None
    """Held-out prompts of a built-in task."""
    digits: Annotated[int, Field(ge=2, le=64)] = 8
    """sort: digits of a prompt."""
    numbers: Annotated[int, Field(ge=2, le=6)] = 3
    """countdown: numbers of a prompt."""
    gym: str | None = None
    """reasoning_gym: the name of a generator, such as chain_sum. Needs the extra "gym"."""
    gym_config: dict[str, Any] = Field(default_factory=dict)
    """reasoning_gym: the generator's own settings."""
    path: GivenPath | None = None
    """A prompt-completion file as the held-out set."""
    verifier: Literal["exact", "number", "math"] | None = None
    """How completions are checked against the file's answers: as text, by the one plain number that they give as their
    answer, or as LaTeX by value; none: math where an answer is LaTeX, else exact."""
    pairs: GivenPath | None = None
    """A preference file for pair accuracy and margins."""
    split: str | None = None
    """Another split of the data set that data.dataset names: preference pairs for a trainer of pairs, else as path."""
    prompts: Made = 256
    """How many held-out prompts there are at most."""
    every: NonNegativeInt = 0
    """Steps between evaluations; 0: only before the first and after the last step."""
    sampling: SamplingSettings | None = SamplingSettings()
    """How completions of the sampled exact match are drawn; null: greedily alone. eval/kl_start is always measured at
    temperature 1."""
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    """K: how many completions are sampled of each prompt. The sampled exact match is the mean over all of them."""
    pass_at: SampleCounts = Field(default_factory=list)
    """Measures pass@k for each k of the list: how often one of k samples at least is right, at most K."""
    majority_at: SampleCounts = Field(default_factory=list)
    """Measures majority@k for each k of the list: how often the most frequent answer of k samples is right."""
    max_new_tokens: AtOnce = 64
    """Completions end here at the latest; 64, and 256 for a file or reasoning_gym, unless said."""
    kl: bool = True
    """Measure eval/kl_start where the run has a start."""
    seed: Seed = 0
    """Seed of held-out prompts and samples."""

    @model_validator(mode="before")
    @classmethod
    def _longer_for_files(cls, values: Any) -> Any:
        """Our tasks' answers are short; a file's or a generator's are as long as its owner's."""
        given = isinstance(values, dict) and any(values.get(name) is not None for name in ("path", "split", "gym"))
        return {"max_new_tokens": FILE_NEW_TOKENS, **values} if given else values

    @field_validator("name")
    @classmethod
    def _in_metrics(cls, name: str | None) -> str | None:
        if name is not None and not SET_NAME.fullmatch(name):
            raise ValueError(f"found {name[:60]!r}, allowed letters, digits, - and _, at most 40")
        if name in cls.model_fields:
            raise ValueError(f"found {name}, which is a setting of every set, allowed another name")
        return name

    @field_validator("samples")
    @classmethod
    def _not_the_same_again(cls, samples: int, info: ValidationInfo) -> int:
        if samples > 1 and "sampling" in info.data:
            _check_drawn(f"{samples} samples", info.data["sampling"])
        if samples * info.data.get("prompts", 1) > MAX_MADE:
            raise ValueError(
                f"found {samples:,} for {info.data['prompts']:,} prompts, allowed at most {MAX_MADE:,} completions"
            )
        return samples

    @field_validator("pass_at", "majority_at")
    @classmethod
    def _of_the_samples(cls, counts: list[int], info: ValidationInfo) -> list[int]:
        name, samples = str(info.field_name).removesuffix("_at"), info.data.get("samples")
        if counts and "sampling" in info.data:
            _check_drawn(f"{name}@{counts[0]}", info.data["sampling"])
        for index, k in enumerate(counts):
            if samples is not None and k > samples:
                raise ValueError(f"found K = {samples} for {name}@{k}, allowed samples: {k} or more")
            if k in counts[:index]:
                raise ValueError(f"found {k} twice, allowed values that differ")
        return counts

    @model_validator(mode="after")
    def _one_set_of_prompts(self) -> EvaluateSettings:
        if sum(value is not None for value in (self.task, self.path, self.split)) > 1:
            raise ValueError("evaluate takes one of task, path, split")
        check_gym(self.task, self.gym, self.gym_config)
        return self

    @model_serializer(mode="wrap")
    def _as_asked(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields as plain data, without those of WHEN_ASKED that were not asked for."""
        fields: dict[str, Any] = handler(self)
        left_out = {
            name for name, default in _defaults_when_asked(type(self)).items() if getattr(self, name) == default
        }
        return {name: value for name, value in fields.items() if name not in left_out}

    @property
    def names_nothing(self) -> bool:
        """Whether it names nothing to measure, so that collected pairs alone are."""
        return all(value is None for value in (self.task, self.path, self.pairs, self.split))

    @property
    def task_settings(self) -> TaskSettings | None:
        """The built-in task whose held-out prompts are measured on."""
        if self.task is None:
            return None
        fields = {name: getattr(self, name) for name in TaskSettings.model_fields}
        return TaskSettings.model_validate(fields)


def _check_drawn(what: str, sampling: SamplingSettings | None) -> None:
    """Raises ValueError where every sample of a prompt would be the same."""
    if sampling is None or sampling.top_k == 1:
        found = "sampling: null" if sampling is None else "sampling.top_k: 1"
        raise ValueError(
            f"found {what} with {found}, which gives the same completion every time; allowed with a temperature, "
            "such as sampling: {temperature: 1.0}"
        )


@functools.cache
def _defaults_when_asked(settings: type[EvaluateSettings]) -> dict[str, Any]:
    """The defaults of WHEN_ASKED, found once: a plan writes the settings of a thousand runs."""
    fields = settings.model_fields
    return {name: fields[name].get_default(call_default_factory=True) for name in WHEN_ASKED}
