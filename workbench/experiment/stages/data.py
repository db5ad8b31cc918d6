"""The stage "data": examples found, read and tokenised, each source in the form that a trainer takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data import overlap
from workbench.data.bad_rows import BadRows
from workbench.data.counts import Counts
from workbench.data.forms import DataForm
from workbench.data.overlap import PromptHasher, PromptHashes
from workbench.data.reading import Examples
from workbench.data.sets import TokenSet, load_arrays, save_arrays
from workbench.data.settings import ReadData, TaskData
from workbench.data.tasks import make_rows
from workbench.errors import DataError
from workbench.experiment.running.held_out_files import task_example
from workbench.experiment.stages.collect import read_completions, read_pairs
from workbench.models.tokenizer import Tokenizer

ROWS_FILE = "rows.safetensors"
DIFFICULTY_FILE = "difficulty.safetensors"
MAX_TASK_TOKENS = 2048


@dataclass(frozen=True)
class ReadRows:
    """Rows as token ids, and what became of what was read."""

    rows: TokenSet
    counts: Counts
    format: str
    """The format that was found."""
    hashes: PromptHashes
    """The prompts' hashes."""
    difficulty: np.ndarray | None
    """(rows,) float64, how hard each row is; None where no column of it is read."""

    def save(self, folder: Path) -> None:
        """Writes what a run reads."""
        self.rows.save(folder / ROWS_FILE)
        self.hashes.save(folder / overlap.FILE)
        if self.difficulty is not None:
            save_arrays(folder / DIFFICULTY_FILE, difficulty=self.difficulty)


def load_difficulty(folder: Path) -> np.ndarray:
    """The difficulties that were saved."""
    return load_arrays(folder / DIFFICULTY_FILE)["difficulty"]


@dataclass(frozen=True)
class Reading:
    """How examples are found and become token ids."""

    read: Callable[[BadRows], Iterable[Any]]
    """The examples, or pairs of token ids; what cannot be used is added to the bad rows."""
    form: DataForm
    format: str
    """The format of rows that do not tell it themselves."""
    max_tokens: int = MAX_TASK_TOKENS
    as_chat: bool = False
    skip_bad: bool = False
    task: str | None = None
    """The built-in task that the examples are of."""
    difficulty: str | None = None
    """The column with the rows' difficulty, where one is kept."""

    @property
    def key(self) -> dict[str, Any]:
        """What it adds to the identity of the result. It has no word of a difficulty that is not asked for, as stages
        from before there was one."""
        key = self.form.identity | {name: getattr(self, name) for name in ("max_tokens", "as_chat", "skip_bad")}
        return key if self.difficulty is None else key | {"difficulty": self.difficulty}

    def tokenise(self, tokenizer: Tokenizer) -> ReadRows:
        """Reads the examples and makes rows of them."""
        bad, hasher = BadRows(self.skip_bad), PromptHasher()
        source = self.read(bad)
        kept: list[float] = []
        rows, counts = self.form.tokenise(
            hasher.seen(source),
            tokenizer,
            self.max_tokens,
            as_chat=self.as_chat,
            task=self.task,
            bad=bad,
            on_kept=None if self.difficulty is None else lambda example: kept.append(example.difficulty),
        )
        found = self.format
        if isinstance(source, Examples):
            found, counts.unread = source.format.name if source.format else found, source.unread
        hashes = hasher.result()
        counts.repeated, counts.repeated_folded = hashes.repeated
        difficulty = None if self.difficulty is None else np.array(kept, np.float64)
        assert difficulty is None or len(difficulty) == len(rows), "a form tells of each row that it keeps"
        return ReadRows(rows, counts, found, hashes, difficulty)

    @classmethod
    def of(cls, settings: ReadData, form: DataForm, difficulty: str | None = None) -> Reading:
        """Reads the records that the settings name."""

        def read(bad: BadRows) -> Examples:
            return Examples.of(settings, form.wanted, bad, difficulty)

        skip, as_chat = settings.bad_rows == "skip", settings.chat_template
        return cls(read, form, "", settings.max_tokens, as_chat, skip_bad=skip, difficulty=difficulty)

    @classmethod
    def of_task(cls, settings: TaskData, form: DataForm) -> Reading:
        """Makes the rows of a built-in task."""

        def read(_: BadRows) -> Iterable[Any]:
            return map(task_example, make_rows(settings, "train", settings.rows, settings.seed))

        return cls(read, form, "prompt-completion", task=settings.task)

    @classmethod
    def of_collected(cls, path: Path, form: DataForm) -> Reading:
        """Reads what was collected: pairs as the token ids that were sampled, completions as text."""
        if form.takes_pairs:
            return cls(lambda _: read_pairs(path), form, "preference")
        return cls(lambda _: read_completions(path), form, "prompt-completion")


def write_rows(folder: Path, reading: Reading, tokenizer: Tokenizer) -> dict[str, Any]:
    """Writes the rows and what stands beside them; returns the counts and the format. Raises DataError where no row is
    left."""
    found = reading.tokenise(tokenizer)
    if not len(found.rows):
        raise DataError("no row is left to train on: nothing to learn from was left after truncation")
    reading.form.check(found.rows, found.counts.places)
    found.save(folder)
    return {"counts": vars(found.counts), "format": found.format}
