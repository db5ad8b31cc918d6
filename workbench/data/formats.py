"""What a row is: plain text, prompt and completion, a preference pair, or chat messages, told by its fields."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.data.sources import shown

_HALF_PAIR = re.compile("[\ud800-\udfff]")
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
    names = ", ".join(shown(name)[1:-1] for name in list(fields)[:8]) + (", ..." if len(fields) > 8 else "")
    raise ValueError(f"has the fields {names or '(none)'}, allowed {allowed}")


def parse_example(kind: str, fields: Mapping[str, Any]) -> Example:
    """The example that a row holds. ValueError says which field is wrong and why."""
    needed, parse = FORMATS[kind]
    missing = sorted(needed - fields.keys())
    if missing:
        raise ValueError(f"has no {missing[0]}, though earlier rows are of the format {kind}")
    for name, value in fields.items():
        if "score" in name and _is_not_finite(value):
            raise ValueError(f"{shown(name)[1:-1]} is {shown(value)}, allowed a finite number")
    return parse(fields)


def _is_not_finite(value: Any) -> bool:
    """Of a number, or of one as CSV writes it."""
    if isinstance(value, str):
        return value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity")
    return isinstance(value, float) and not math.isfinite(value)


def _text(fields: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_describe(value)}, allowed text")
    if not empty and not value.strip():
        raise ValueError(f"{name} is empty, allowed text")
    _check_characters(value, name)
    return value


def _check_characters(text: str, name: str) -> None:
    """JSON can write half of a surrogate pair, which no encoding has."""
    if not text.isascii() and _HALF_PAIR.search(text):
        raise ValueError(f"{name} holds half of a surrogate pair, allowed whole characters")


def _describe(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _preference(fields: Mapping[str, Any]) -> Preference:
    ended = [fields.get(name, True) for name in ("chosen_ended", "rejected_ended")]
    for name, value in zip(("chosen_ended", "rejected_ended"), ended, strict=True):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {_describe(value)}, allowed true or false")
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
            raise ValueError(f"messages[{index}].role is {shown(turn['role'])}, allowed {', '.join(ROLES)}")
        if not isinstance(turn["content"], str):
            raise ValueError(f"messages[{index}].content is {_describe(turn['content'])}, allowed text")
        _check_characters(turn["content"], f"messages[{index}].content")
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
