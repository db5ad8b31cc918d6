"""Rows of which the completion, or the assistant's turns, are learned."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from workbench.data.bad_rows import BadRows
from workbench.data.counts import Counts
from workbench.data.formats import PROMPT_ANSWER, ROW_FORMATS, Chat, Example, PromptCompletion, Text
from workbench.data.forms.base import DataForm, characters_of
from workbench.data.sets import RowSet
from workbench.data.tokenise import OnKept, tokenise_rows
from workbench.data.wanted import EVERY_COMPLETION, ONE_ANSWER, ONE_SIDE, Wanted
from workbench.models.tokenizer import Tokenizer


class Rows(DataForm):
    """Rows of which the prompt is masked."""

    name = "rows"
    wanted = Wanted(
        ROW_FORMATS,
        "text; prompt, completion; messages",
        ONE_SIDE | EVERY_COMPLETION | {PROMPT_ANSWER: ONE_ANSWER},
    )
    sources: ClassVar[tuple[str, ...]] = ("task", "path", "dataset", "collect")
    sources_text = "task, path, dataset or collect"
    has_row_loss = True
    every_token: ClassVar[bool] = False
    """Whether prompts are learned too, and rows that are too long divided instead of cut."""

    def tokenise(
        self,
        examples: Iterable[Example],
        tokenizer: Tokenizer,
        max_tokens: int,
        *,
        as_chat: bool,
        task: str | None = None,
        bad: BadRows | None = None,
        on_kept: OnKept | None = None,
    ) -> tuple[RowSet, Counts]:
        return tokenise_rows(
            examples, tokenizer, max_tokens, as_chat=as_chat, every_token=self.every_token, bad=bad, on_kept=on_kept
        )

    def load(self, path: Path, reference: Path | None = None) -> RowSet:
        assert reference is None, "rows take no reference"
        return RowSet.load(path)

    def num_characters(self, example: Example) -> int:
        if isinstance(example, Text):
            return len(example.text) + 1
        if isinstance(example, Chat):
            return characters_of(example.messages) + 1
        assert isinstance(example, PromptCompletion), "readers give no other examples as rows"
        return len(example.prompt) + len(example.completion) + 1


ROWS = Rows()
