"""Checks against a reference answer as text."""

from __future__ import annotations

VERSION = 2


def exact_match(prompt: str, completion: str, answer: str | None) -> float:
    """1 when completion and answer are the same text, spaces at the ends aside."""
    return float(answer is not None and completion.strip() == answer.strip())
