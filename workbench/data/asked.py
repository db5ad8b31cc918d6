"""The prompt that a row asks, for whoever lets a model complete it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.data.conversations import Turns
from workbench.data.formats import Chat, Example, Prompt, PromptCompletion


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt to complete. text: what verifiers and records see of it, the contents of turns a line each."""

    prompt: str | Turns
    answer: str | None
    columns: Mapping[str, Any] | None = None
    """The row's own."""

    @property
    def text(self) -> str:
        """The prompt as one text."""
        return self.prompt if isinstance(self.prompt, str) else "\n".join(turn[1] for turn in self.prompt)

    def row_json(self) -> str | None:
        """What rewards may take of the row besides: its columns, and the turns that the prompt is."""
        found: dict[str, Any] = {"columns": dict(self.columns)} if self.columns else {}
        if not isinstance(self.prompt, str):
            found["messages"] = [[role, content] for role, content, *_ in self.prompt]
        return json.dumps(found, ensure_ascii=False, default=str) if found else None


def asked_prompt(example: Example) -> AskedPrompt:
    """The prompt that an example asks, and its answer. ValueError says why it asks none."""
    if isinstance(example, PromptCompletion):
        answer = example.completion if example.reference is None else example.reference
        return AskedPrompt(example.prompt, answer, example.columns)
    if isinstance(example, Prompt):
        return AskedPrompt(example.prompt, example.answer, example.columns)
    assert isinstance(example, Chat), "texts and preference pairs ask nothing"
    *before, last = example.messages
    if last[0] != "assistant":
        raise ValueError(f"it ends with a {last[0]} turn, allowed an assistant turn, which is the answer")
    if not before:
        raise ValueError("it has one turn, allowed a prompt before the answer")
    if example.reference is None and not last[1].strip():
        raise ValueError("its last turn says nothing, allowed text, which is the answer, or a field answer beside it")
    answer = last[1] if example.reference is None else example.reference
    return AskedPrompt(tuple(before), answer, example.columns)
