"""What a row of training data is, as one object: whoever needs to know something of it asks it, and nobody compares its
name. It says facts; what follows from them is decided where it is done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from workbench.data.bad_rows import BadRows
from workbench.data.counts import Counts
from workbench.data.formats import Example
from workbench.data.sets import TokenSet
from workbench.data.tokenise import OnKept
from workbench.data.wanted import HELD_OUT, Wanted
from workbench.models.tokenizer import Tokenizer


class DataForm(ABC):
    """One form of training data. A new one is a file like those beside this one; settings name it as their data_form,
    by itself or, where FORMS has it, by its name."""

    name: ClassVar[str]
    """What settings, messages and the identities of stages call it."""
    unit: ClassVar[str] = "row"
    """What a batch is counted in; the setting of its size is named by it."""

    wanted: ClassVar[Wanted]
    """The file formats that serve it."""
    held_out: ClassVar[Wanted] = HELD_OUT
    """The file formats of rows that are held out and completed."""
    sources: ClassVar[tuple[str, ...]] = ("task", "path", "dataset")
    """The kinds of data, as definitions name them, that it may come from."""
    sources_text: ClassVar[str] = "task, path or dataset"
    """The kinds of data that it may come from, in words, for messages."""
    example_file: ClassVar[str] = "train.jsonl"
    """A file name for messages."""

    is_sampled: ClassVar[bool] = False
    """Whether the trainer completes its rows itself, and rewards judge the completions."""
    takes_reference: ClassVar[bool] = False
    """Whether its sets hold a reference's log-probabilities, where the trainer's settings need them."""
    has_row_loss: ClassVar[bool] = False
    """Whether held-out rows have a loss of the trainer's own kind."""
    has_pair_accuracy: ClassVar[bool] = False
    """Whether a held-out split of its rows is measured by pair accuracy; others by their prompts."""
    takes_pairs: ClassVar[bool] = False
    """Whether its rows can be made of pairs."""
    rows_per_pair: ClassVar[int] = 1
    """Rows that a pair gives."""
    num_completions: ClassVar[int] = 1
    """Completions that a row holds behind its prompt."""

    record_bytes: ClassVar[int] = 350
    """Bytes that a step's row of metrics takes, as finished runs have them."""
    length_note: ClassVar[str] = ""
    """What the length of a row is that max_tokens bounds, where it is not the row's own."""
    tokens_note: ClassVar[str] = ""
    """A note on how its tokens are counted, where not each of them counts once."""

    @property
    def units(self) -> str:
        """The plural of the unit."""
        return f"{self.unit}s"

    @property
    def batch_setting(self) -> str:
        """The setting that tells the size of a batch."""
        return f"batch_{self.units}"

    @property
    def held_out_form(self) -> DataForm:
        """The form in which held-out rows are tokenised."""
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What decides, beside the rows, how they are tokenised and kept."""
        return {"form": self.name}

    @abstractmethod
    def tokenise(
        self,
        examples: Iterable[Any],
        tokenizer: Tokenizer,
        max_tokens: int,
        *,
        as_chat: bool,
        task: str | None = None,
        bad: BadRows | None = None,
        on_kept: OnKept | None = None,
    ) -> tuple[TokenSet, Counts]:
        """The examples as token ids, and what became of them. task: the built-in one that they are of. on_kept is
        called once for each row of the set."""

    @abstractmethod
    def load(self, path: Path, reference: Path | None = None) -> TokenSet:
        """The set that was saved. reference: the file of a reference's log-probabilities."""

    @abstractmethod
    def num_characters(self, example: Example) -> int:
        """Characters of what a model reads of an example, one for the end of each completion among them."""

    def row_characters(self, example: Example) -> tuple[int, ...]:
        """Characters of each row that an example gives."""
        return (self.num_characters(example),)

    def check(self, rows: Any, places: Sequence[str]) -> None:  # noqa: B027 - most forms ask nothing more
        """Raises DataError where nothing can be learned of a set of these rows, though each is good. places: of the
        first of them."""

    def check_examples(self, examples: Sequence[Example]) -> None:  # noqa: B027 - most forms ask nothing more
        """Raises DataError where nothing can be learned of these examples, before they are tokenised, as `check` does
        after."""

    def longest_text(self, example: Example) -> int:
        """Characters of an example's longest text, which max_tokens bounds."""
        return max(self.row_characters(example))


def characters_of(value: str | tuple[Any, ...]) -> int:
    """Characters of a text, or of the contents of turns."""
    return len(value) if isinstance(value, str) else sum(len(str(turn[1])) for turn in value)
