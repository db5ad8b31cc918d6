"""What a run trains on: a built-in task, a file, or pairs collected from models' own samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from workbench.config import Settings


class TaskSettings(Settings):
    """A built-in task with a verifier."""

    task: Literal["sort", "countdown"]
    """sort: digits in order; countdown: reach a target with given numbers."""
    digits: Annotated[int, Field(ge=2, le=64)] = 8
    """sort: digits a prompt."""
    numbers: Annotated[int, Field(ge=2, le=6)] = 3
    """countdown: numbers a prompt."""


class TaskData(TaskSettings):
    """Prompts of a task with their reference answers."""

    rows: PositiveInt = 10_000
    """Rows made; train and held-out prompts never overlap."""
    seed: NonNegativeInt = 0
    """Seed of the prompts."""


class FileData(Settings):
    """A data file: plain text, prompt and completion, preference pairs, or chat messages, told by its columns."""

    path: str
    """JSONL, JSON, Parquet or CSV."""
    max_tokens: PositiveInt = 1024
    """Tokens a row at most; prompts lose their beginning, completions their end, and both are counted."""
    bad_rows: Literal["error", "skip"] = "error"
    """error: any bad row stops the run, named as file:line; skip: they are left out and counted."""
    chat_template: bool = False
    """Render plain prompts as a user's turn through the model's chat template."""


class CollectSettings(TaskSettings):
    """Preference pairs from models' own samples, ranked by the task's verifier."""

    model_config = ConfigDict(populate_by_name=True)

    pairs: PositiveInt = 4096
    """Pairs collected for training, one a prompt at most."""
    held_out_pairs: NonNegativeInt = 0
    """Pairs collected on held-out prompts, for eval/pair_accuracy."""
    samples_per_prompt: Annotated[int, Field(ge=2)] = 4
    """Samples of each prompt that the pair is chosen from."""
    from_: str | list[str] = Field("start", alias="from")
    """Who samples: start, or a list of runs or model folders."""
    no_correct: Literal["skip", "reference"] = "skip"
    """A prompt without a correct sample: left out, or the task's reference answer is the chosen one."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature."""
    seed: NonNegativeInt = 0
    """Seed of prompts and samples."""


class CollectData(Settings):
    """Pairs made from models' own samples."""

    collect: CollectSettings
    """How they are collected."""


DataSettings = TaskData | FileData | CollectData
