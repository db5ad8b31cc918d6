"""Which completions of a prompt give the same answer, as the prompt's verifier reads answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from workbench.rewards import gym, math_answer, number

_READ: dict[str, Callable[[str], Hashable]] = {
    "exact": str.strip,
    "number": number.extract_number,
    "math": math_answer.answer_in,
    "reasoning_gym": gym.answer_in,
}
"""What a verifier reads as a completion's answer, None where it finds none; for the others that is the whole text."""


def votes(verifier: str, completions: Sequence[str]) -> list[int | None]:
    """For each completion the place of the first one that gives the same answer; None where it gives none.

    verifier: a name of workbench.rewards. Answers are the same by value for number and math, else as text.
    """
    read: Callable[[str], Any] = _READ.get(verifier, str)
    answers = {text: read(text) for text in dict.fromkeys(completions)}
    first: dict[Any, int | None] = {None: None, "": None}
    for place, text in enumerate(completions):
        answer = answers[text]
        if answer not in first:
            alike = [p for known, p in first.items() if p is not None and _equal(verifier, known, answer)]
            first[answer] = alike[0] if alike else place
    return [first[answers[text]] for text in completions]


def _equal(verifier: str, known: Any, answer: Any) -> bool:
    """Whether two answers that are not the same text or number have the same value."""
    return verifier == "math" and math_answer.math_match("", answer, known) == 1.0
