"""What a row is: plain text, prompt and completion, a preference pair, or chat messages, told by its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, learned token by token."""

    text: str


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    """A prompt and what should follow it."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with a better and a worse completion; *_ended is False where sampling was cut before the end."""

    prompt: str
    chosen: str
    rejected: str
    chosen_ended: bool = True
    rejected_ended: bool = True


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages of (role, content); the assistant's turns are learned."""

    messages: tuple[tuple[str, str], ...]


Example = Text | PromptCompletion | Preference | Chat


def kind_of(fields: Mapping[str, Any]) -> str:
    """The name of the format that these fields are. ValueError says what was found and what is allowed."""
    for kind, (needed, _) in FORMATS.items():
        if needed <= fields.keys():
            return kind
    allowed = "; ".join(", ".join(sorted(needed)) for needed, _ in FORMATS.values())
    raise ValueError(f"has the fields {', '.join(map(str, fields)) or '(none)'}, allowed {allowed}")


def parse_example(kind: str, fields: Mapping[str, Any]) -> Example:
    """The example that a row holds. ValueError says which field is wrong and why."""
    needed, parse = FORMATS[kind]
    missing = sorted(needed - fields.keys())
    if missing:
        raise ValueError(f"has no {missing[0]}, though earlier rows are of the format {kind}")
    return parse(fields)


def _text(fields: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_describe(value)}, allowed text")
    if not empty and not value.strip():
        raise ValueError(f"{name} is empty, allowed text")
    return value


def _describe(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _preference(fields: Mapping[str, Any]) -> Preference:
    ended = [fields.get(f"{side}_ended", True) for side in ("chosen", "rejected")]
    if not all(isinstance(value, bool) for value in ended):
        raise ValueError("chosen_ended and rejected_ended are true or false")
    chosen, rejected = _text(fields, "chosen"), _text(fields, "rejected", empty=True)
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same text, so there is nothing to prefer")
    return Preference(_text(fields, "prompt", empty=True), chosen, rejected, *ended)


def _chat(fields: Mapping[str, Any]) -> Chat:
    messages = fields["messages"]
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"messages is {_describe(messages) if messages != [] else 'empty'}, allowed a list of turns")
    turns = []
    for index, turn in enumerate(messages):
        if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
            raise ValueError(f"messages[{index}] has no role and content")
        if turn["role"] not in ROLES:
            raise ValueError(f"messages[{index}].role is {turn['role']!r}, allowed {', '.join(ROLES)}")
        if not isinstance(turn["content"], str):
            raise ValueError(f"messages[{index}].content is {_describe(turn['content'])}, allowed text")
        turns.append((turn["role"], turn["content"]))
    if not any(role == "assistant" and content.strip() for role, content in turns):
        raise ValueError("messages has no assistant turn to learn from")
    return Chat(tuple(turns))


FORMATS: dict[str, tuple[frozenset[str], Callable[[Mapping[str, Any]], Example]]] = {
    "preference": (frozenset({"prompt", "chosen", "rejected"}), _preference),
    "messages": (frozenset({"messages"}), _chat),
    "prompt-completion": (
        frozenset({"prompt", "completion"}),
        lambda fields: PromptCompletion(_text(fields, "prompt", empty=True), _text(fields, "completion")),
    ),
    "question-answer": (
        frozenset({"question", "answer"}),
        lambda fields: PromptCompletion(_text(fields, "question"), _text(fields, "answer")),
    ),
    "text": (frozenset({"text"}), lambda fields: Text(_text(fields, "text"))),
}
"""Formats by name, the first whose fields are all there: (fields needed, fields -> example)."""
