"""Text to number: verifiers by name, called as verifier(prompt, completion, answer) -> 0 or 1; right is 1.

reasoning_gym alone gives numbers between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workbench.rewards import countdown, gym, math_answer, number, sort, text

Verifier = Callable[[str, str, str | None], float]
_VERIFIERS: dict[str, tuple[Verifier, int]] = {
    "sort": (sort.verify_sort, sort.VERSION),
    "countdown": (countdown.verify_countdown, countdown.VERSION),
    "exact": (text.exact_match, text.VERSION),
    "number": (number.number_match, number.VERSION),
    "math": (math_answer.math_match, math_answer.VERSION),
    "reasoning_gym": (gym.verify_gym, gym.VERSION),
}
BY_ANSWERS = ("math", "exact")
"""Checks of which the answers choose one, where none is named."""


def check_of_answers(answers: Sequence[str]) -> str:
    """math where an answer is LaTeX and all can be read as such, else exact."""
    latex = any(map(math_answer.looks_like_latex, answers)) and all(map(math_answer.is_math, answers))
    return "math" if latex else "exact"


def get_verifier(name: str) -> Verifier:
    """The check named; names are validated by the settings that hold them."""
    return _VERIFIERS[name][0]


def verifier_version(name: str) -> int:
    """Raised by hand when a check changes; part of fingerprints."""
    return _VERIFIERS[name][1]


def answer_problem(name: str, answer: str | None) -> str | None:
    """What is wrong with an answer that a check is to compare with, so that no completion could be right; None:
    nothing."""
    if answer is None:
        return "has no answer to check against"
    if name == "number" and number.extract_number(answer) is None:
        return "has an answer that is no number alone; allowed one plain number, or the check math, which reads LaTeX"
    if name == "math" and not math_answer.is_math(answer):
        return "has an answer that math-verify reads no number or expression in; allowed one, or the check exact"
    return None
