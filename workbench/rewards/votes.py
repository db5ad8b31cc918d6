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


_RIGHT: Any = object()
"""The answer of every completion that math finds right."""


def votes(verifier: str, completions: Sequence[str], right: Sequence[bool]) -> list[int | None]:
    """For each completion the place of the first one that gives the same answer; None where it gives none.

    verifier: a name of workbench.rewards. Answers are the same by value for number and math, else as text. right: what
    the verifier says of each. All that math finds right are one answer: where 5 is, both x = 5 and y = 5 are 5.
    """
    read: Callable[[str], Any] = _READ.get(verifier, str)
    by_value = verifier == "math"
    judged = dict(zip(completions, right, strict=True))
    answers: dict[str, Any] = {
        text: _RIGHT if by_value and is_right else read(text) for text, is_right in judged.items()
    }
    first: dict[Any, int | None] = {None: None, "": None}
    wrong: dict[str, int] = {}  # one text of each answer that math can compare
    for place, text in enumerate(completions):
        answer = answers[text]
        if answer not in first and by_value and answer is not _RIGHT:
            alike = next((known for known in wrong if math_answer.math_match("", answer, known)), answer)
            first[answer] = wrong.setdefault(alike, place)
        first.setdefault(answer, place)
    return [first[answers[text]] for text in completions]
