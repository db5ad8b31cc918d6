"""Sorting digits: the prompt's form, its answer, its check."""

from __future__ import annotations

import re

VERSION = 1
_PROMPT = re.compile(r"sort ([0-9]+): ")


def sort_prompt(digits: str) -> str:
    """The prompt that asks for `digits` in ascending order."""
    return f"sort {digits}: "


def is_sort_prompt(prompt: str) -> bool:
    """Whether the prompt is one that sort_prompt writes; no completion is right for another."""
    return _PROMPT.fullmatch(prompt) is not None


def verify_sort(prompt: str, completion: str, answer: str | None = None) -> float:
    """1 when the completion is exactly the prompt's digits in ascending order, else 0."""
    match = _PROMPT.fullmatch(prompt)
    return float(match is not None and completion == "".join(sorted(match[1])))
