"""Prompts that the trainer completes itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from workbench.data.asked import asked_prompt
from workbench.data.bad_rows import BadRows
from workbench.data.counts import Counts
from workbench.data.formats import COMPLETION_FORMATS, PROMPT_ANSWER, PROMPT_ONLY, Example
from workbench.data.forms.base import DataForm
from workbench.data.sets import PromptSet
from workbench.data.tokenise import OnKept, tokenise_prompts
from workbench.data.wanted import EVERY_COMPLETION, ONE_SIDE, Wanted
from workbench.models.tokenizer import Tokenizer


class Prompts(DataForm):
    """Prompts with what rewards may take of their rows; they stand in all rows but plain text."""

    name = "prompts"
    unit = "prompt"
    wanted = held_out = Wanted(
        (PROMPT_ANSWER, *COMPLETION_FORMATS, PROMPT_ONLY),
        "prompt; prompt, answer; prompt, completion; messages",
        ONE_SIDE | EVERY_COMPLETION,
        keeps_columns=True,
    )
    example_file = "prompts.jsonl"
    is_sampled = True
    num_completions = 0
    record_bytes = 1300

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
    ) -> tuple[PromptSet, Counts]:
        return tokenise_prompts(examples, tokenizer, max_tokens, as_chat=as_chat, task=task, bad=bad, on_kept=on_kept)

    def load(self, path: Path, reference: Path | None = None) -> PromptSet:
        assert reference is None, "what prompts are completed with is scored when it is sampled"
        return PromptSet.load(path)

    def num_characters(self, example: Example) -> int:
        return len(asked_prompt(example).text)


PROMPTS = Prompts()
