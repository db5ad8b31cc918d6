"""What a run trains on: a built-in task, a file, a data set, models' own samples, or a mix of several."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, model_validator

from workbench.config import MAX_MADE, GivenPath, Made, PositiveInt, Seed, Settings, check_product
from workbench.data.curriculum import Curriculum, SharesAt, between, check_schedule, check_weights
from workbench.rewards.gym import OURS, REFUSED
from workbench.rewards.settings import RewardSettings


class TaskSettings(Settings):
    """A built-in task with a verifier."""

    task: Literal["sort", "countdown", "reasoning_gym"]
    """sort: digits in order; countdown: reach a target with given numbers; reasoning_gym: puzzles of that package."""
    digits: Annotated[int, Field(ge=2, le=64)] = 8
    """sort: digits a prompt."""
    numbers: Annotated[int, Field(ge=2, le=6)] = 3
    """countdown: numbers a prompt."""
    gym: str | None = None
    """reasoning_gym: the name of a generator, such as chain_sum. Needs the extra "gym"."""
    gym_config: dict[str, Any] = Field(default_factory=dict)
    """reasoning_gym: the generator's own settings, such as {min_terms: 2, max_terms: 3}."""

    @model_validator(mode="after")
    def _one_generator(self) -> TaskSettings:
        check_gym(self.task, self.gym, self.gym_config)
        return self


def check_gym(task: str | None, gym: str | None, gym_config: Mapping[str, Any]) -> None:
    """ValueError where task, generator and its settings do not go together. The package itself is not asked."""
    if (task == "reasoning_gym") != (gym is not None):
        raise ValueError("task: reasoning_gym and gym: NAME (of a generator, such as chain_sum) need each other")
    if gym in REFUSED:
        raise ValueError(f"gym: found {gym}, allowed another generator: {REFUSED[gym]}")
    if gym_config and gym is None:
        raise ValueError("gym_config belongs to gym, found it without")
    for name in OURS:
        if name in gym_config:
            raise ValueError(f"gym_config.{name} is chosen by rows and seed, allowed the generator's other settings")


class TaskData(TaskSettings):
    """Prompts of a task with their reference answers."""

    rows: Made = 10_000
    """Rows made; train and held-out prompts never overlap."""
    seed: Seed = 0
    """Seed of the prompts."""


class ReadData(Settings):
    """How rows are read, wherever they lie; their columns tell the format."""

    columns: dict[str, str] = Field(default_factory=dict)
    """The data's own column by the name that the format gives it, such as {prompt: question, completion: answer};
    reward_model.ground_truth is a nested one, and completion: chosen one side of pairs."""
    ignore_columns: list[str] = Field(default_factory=list)
    """Columns to leave out, such as weight or context, that would change what is learned if they were read."""
    rows: PositiveInt | None = None
    """Rows read at most, from the beginning; none: all."""
    max_tokens: PositiveInt = 1024
    """Tokens a row at most; prompts lose their beginning, completions their end, and both are counted."""
    bad_rows: Literal["error", "skip"] = "error"
    """error: any bad row stops the run, named as file:line; skip: they are left out and counted."""
    chat_template: bool = False
    """Render plain prompts as a user's turn through the model's chat template."""

    @property
    @abstractmethod
    def source(self) -> str:
        """What is read, as a message names it."""


class FileData(ReadData):
    """A data file: plain text, prompt and completion, preference pairs, or chat messages, told by its columns."""

    path: GivenPath
    """JSONL, JSON, Parquet or CSV."""

    @property
    def source(self) -> str:
        return self.path


class DatasetData(ReadData):
    """A data set of the hub, one that `datasets` saved, or a folder of data files."""

    dataset: GivenPath
    """owner/name on the hub, a folder that save_to_disk wrote, or a folder of JSONL, JSON, Parquet or CSV files."""
    config: str | None = None
    """The hub data set's configuration, where it has several."""
    split: str = "train"
    """Which part: of a folder of files, those whose name or folder bears it (all, where none bears any)."""
    revision: str | None = None
    """Branch, tag or commit on the hub; a whole commit makes the run independent of what is uploaded later."""
    streaming: bool = False
    """Read from the hub row by row, instead of downloading all of it first."""

    @property
    def source(self) -> str:
        return self.dataset


class CollectSettings(TaskSettings):
    """Models' own samples: preference pairs ranked by the task's verifier, or completions as they are."""

    model_config = ConfigDict(populate_by_name=True)

    pairs: Made = 4096
    """Pairs collected for training, one a prompt at most."""
    completions: Made | None = None
    """Completions collected instead of pairs, for a trainer of rows: one a prompt of each sampler, right or wrong, but
    none that was cut before its end."""
    held_out_pairs: Annotated[int, Field(ge=0, le=MAX_MADE)] = 0
    """Pairs collected on held-out prompts, for eval/pair_accuracy."""
    samples_per_prompt: Annotated[int, Field(ge=2, le=10_000)] = 4
    """Samples of each prompt that the pair is chosen from."""
    from_: Literal["start"] | Annotated[list[str], Field(min_length=1)] = Field("start", alias="from")
    """Who samples: start, or a list of runs or model folders."""
    no_correct: Literal["skip", "reference"] = "skip"
    """A prompt without a correct sample: left out, or the task's reference answer is the chosen one."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature."""
    seed: Seed = 0
    """Seed of prompts and samples."""

    @property
    def wanted(self) -> int:
        """Pairs or completions that are collected for training."""
        return self.completions or self.pairs

    @property
    def num_samples(self) -> int:
        """Samples that each model gives of a prompt."""
        return 1 if self.completions else self.samples_per_prompt

    @model_validator(mode="after")
    def _few_enough(self) -> CollectSettings:
        given = {"pairs", "held_out_pairs", "samples_per_prompt", "no_correct"} & self.model_fields_set
        if self.completions and given:
            raise ValueError(f"{sorted(given)[0]} is of pairs, found it with completions; allowed one of them")
        if self.from_ != "start" and len(set(self.from_)) < len(self.from_):
            raise ValueError(f"from: found {', '.join(self.from_)}, allowed each of them once")
        pairs = self.pairs + self.held_out_pairs
        check_product("pairs x samples_per_prompt", (pairs, self.samples_per_prompt), "completions to sample")
        return self


class CollectData(Settings):
    """Pairs or completions made from models' own samples."""

    collect: CollectSettings
    """How they are collected."""


MIX_VERSION = 1
"""Version of the order in which the rows of a mix are drawn."""


class SourceSettings(Settings):
    """What is said of one source of a mix, beside what it is."""

    plain: ClassVar[type[Settings]]
    """The settings of the same data alone."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    """Its name in records, as in reward/NAME; none: the task's, or that of the file or data set."""
    loss_weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """What the losses of its rows are multiplied by; the units that a step's loss is divided by stay those of all."""
    rewards: tuple[RewardSettings, ...] = ()
    """What completions of its prompts earn; none: hyperparameters.rewards, or the task's own check."""

    @property
    def label(self) -> str:
        """The name of the source, or else what tells it best."""
        return self.name or re.sub(r"[^A-Za-z0-9_.-]+", "-", self._told)[:64]

    @property
    @abstractmethod
    def _told(self) -> str: ...

    @property
    def data(self) -> Any:
        """Its rows, as settings of data that stands alone."""
        return self.plain.model_validate(
            self.model_dump(by_alias=True, exclude_unset=True, exclude=set(SourceSettings.model_fields))
        )


class TaskSource(SourceSettings, TaskData):
    """Prompts of a built-in task, as one of several sources."""

    plain = TaskData

    @property
    def _told(self) -> str:
        return self.gym or self.task


class FileSource(SourceSettings, FileData):
    """A data file, as one of several sources."""

    plain = FileData

    @property
    def _told(self) -> str:
        return Path(self.path).stem


class DatasetSource(SourceSettings, DatasetData):
    """A data set, as one of several sources."""

    plain = DatasetData

    @property
    def _told(self) -> str:
        return Path(self.dataset).name


class CollectSource(SourceSettings, CollectData):
    """Collected pairs, as one of several sources."""

    plain = CollectData

    @property
    def _told(self) -> str:
        return self.collect.gym or self.collect.task


SourceData = TaskSource | FileSource | DatasetSource | CollectSource


class MixData(Settings):
    """Several sources, of each of which a share of the rows is drawn. At most one of weights, temperature, schedule."""

    mix: Annotated[list[SourceData], Field(min_length=1)]
    """The sources."""
    weights: list[NonNegativeFloat] | None = None
    """The share of each among the rows drawn; they need not add up to 1."""
    temperature: PositiveFloat | None = None
    """Shares proportional to rows^(1/temperature); none: 1, by the number of rows. The higher, the more alike."""
    schedule: Annotated[list[SharesAt], Field(min_length=1)] | None = None
    """Weights at some steps, such as [{step: 0, weights: [1, 0]}, {step: 100, weights: [1, 1]}]: linear between them,
    and constant before the first and after the last."""

    curriculum: Curriculum | None = None
    """Draws the rows of each source from easy to hard; records tell its bands apart, as NAME-1, NAME-2 and on."""

    @model_validator(mode="after")
    def _names_and_shares(self) -> MixData:
        names = [source.label for source in self.mix]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"found two sources named {name}, allowed names that differ: give them name: ...")
        given = [name for name in ("weights", "temperature", "schedule") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"found {' and '.join(given)}, allowed one of them")
        if self.temperature is not None and self.temperature < 0.1:
            raise ValueError(f"temperature: found {self.temperature}, allowed numbers >= 0.1")
        if self.weights is not None:
            check_weights("weights", self.weights, len(self.mix), "sources")
        check_schedule(self.schedule or (), len(self.mix), "sources")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The sources' names."""
        return tuple(source.label for source in self.mix)

    def shares(self, rows: Sequence[int], step: int) -> list[float]:
        """The share of each source among the rows drawn after so many steps. rows: how many each has."""
        if self.schedule is not None:
            weights = between(self.schedule, step)
        elif self.weights is not None:
            weights = self.weights
        else:
            weights = [number ** (1 / (self.temperature or 1.0)) for number in rows]
        return [weight / sum(weights) for weight in weights]

    def drawn(self, rows: Sequence[int], step: int) -> list[float]:
        """The shares of what is drawn from: of the sources, or of the bands of each."""
        shares = self.shares(rows, step)
        if self.curriculum is None:
            return shares
        return [share * band for share in shares for band in self.curriculum.shares(step)]

    @property
    def num_bands(self) -> int:
        """Bands of each source."""
        return 1 if self.curriculum is None else self.curriculum.num_bands


DataSettings = TaskData | FileData | DatasetData | CollectData | MixData
