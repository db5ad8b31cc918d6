"""The stage "data": examples found, read and tokenised, each source in the form that a trainer takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.data import overlap
from workbench.data.bad_rows import BadRows
from workbench.data.counts import Counts
from workbench.data.forms import DataForm
from workbench.data.overlap import PromptHasher, PromptHashes
from workbench.data.reading import Examples
from workbench.data.sets import TokenSet
from workbench.data.settings import ReadData, TaskData
from workbench.data.tasks import make_rows
from workbench.errors import DataError
from workbench.experiment.running.held_out_files import task_example
from workbench.experiment.stages.collect import read_completions, read_pairs
from workbench.models.tokenizer import Tokenizer

ROWS_FILE = "rows.safetensors"
MAX_TASK_TOKENS = 2048


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

    @property
    def key(self) -> dict[str, Any]:
        """What it adds to the identity of the result."""
        return self.form.identity | {name: getattr(self, name) for name in ("max_tokens", "as_chat", "skip_bad")}

    def tokenise(self, tokenizer: Tokenizer) -> tuple[TokenSet, Counts, str, PromptHashes]:
        """The rows, what became of them, the format that was found, and the prompts' hashes."""
        bad, hasher = BadRows(self.skip_bad), PromptHasher()
        source = self.read(bad)
        rows, counts = self.form.tokenise(
            hasher.seen(source), tokenizer, self.max_tokens, as_chat=self.as_chat, task=self.task, bad=bad
        )
        found = self.format
        if isinstance(source, Examples):
            found, counts.unread = source.format.name if source.format else found, source.unread
        hashes = hasher.result()
        counts.repeated, counts.repeated_folded = hashes.repeated
        return rows, counts, found, hashes

    @classmethod
    def of(cls, settings: ReadData, form: DataForm) -> Reading:
        """Reads the records that the settings name."""

        def read(bad: BadRows) -> Examples:
            return Examples.of(settings, form.wanted, bad)

        skip = settings.bad_rows == "skip"
        return cls(read, form, "", settings.max_tokens, settings.chat_template, skip_bad=skip)

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
    """Write token ids and the prompts' hashes; returns the counts and the format. Raises DataError where no row is
    left."""
    rows, counts, found, hashes = reading.tokenise(tokenizer)
    if not len(rows):
        raise DataError("no row is left to train on: nothing to learn from was left after truncation")
    reading.form.check(rows, counts.places)
    rows.save(folder / ROWS_FILE)
    hashes.save(folder / overlap.FILE)
    return {"counts": vars(counts), "format": found}
