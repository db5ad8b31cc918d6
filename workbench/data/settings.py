"""What a run trains on: a built-in task, a file, a data set, or what is collected from models' own samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveFloat, model_validator

from workbench.config import MAX_MADE, GivenPath, Made, PositiveInt, Seed, Settings, check_product
from workbench.rewards.gym import OURS, REFUSED


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
    from_: Literal["start"] | list[str] = Field("start", alias="from")
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
        pairs = self.pairs + self.held_out_pairs
        check_product("pairs x samples_per_prompt", (pairs, self.samples_per_prompt), "completions to sample")
        return self


class CollectData(Settings):
    """Pairs or completions made from models' own samples."""

    collect: CollectSettings
    """How they are collected."""


DataSettings = TaskData | FileData | DatasetData | CollectData
