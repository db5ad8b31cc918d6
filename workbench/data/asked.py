"""The prompt that a row asks, for whoever lets a model complete it."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.data.conversations import Turns
from workbench.data.formats import Chat, Example, Prompt, PromptCompletion


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt to complete. text: what verifiers and records see of it, the contents of turns a line each."""

    prompt: str | Turns
    answer: str | None

    @property
    def text(self) -> str:
        """As one text."""
        return self.prompt if isinstance(self.prompt, str) else "\n".join(content for _, content in self.prompt)


def asked_prompt(example: Example) -> AskedPrompt:
    """The prompt that an example asks, and its answer. ValueError says why it asks none."""
    if isinstance(example, PromptCompletion):
        return AskedPrompt(example.prompt, example.completion if example.reference is None else example.reference)
    if isinstance(example, Prompt):
        return AskedPrompt(example.prompt, example.answer)
    assert isinstance(example, Chat), "texts and preference pairs ask nothing"
    *before, (role, answer) = example.messages
    if role != "assistant":
        raise ValueError(f"it ends with a {role} turn, allowed an assistant turn, which is the answer")
    if not before:
        raise ValueError("it has one turn, allowed a prompt before the answer")
    return AskedPrompt(tuple(before), answer)
