"""Text to number: verifiers by name, called as verifier(prompt, completion, answer) -> 0 or 1; right is 1.

reasoning_gym alone gives numbers between them.
"""

from __future__ import annotations

from collections.abc import Callable

from workbench.rewards import countdown, gym, number, sort, text

Verifier = Callable[[str, str, str | None], float]
_VERIFIERS: dict[str, tuple[Verifier, int]] = {
    "sort": (sort.verify_sort, sort.VERSION),
    "countdown": (countdown.verify_countdown, countdown.VERSION),
    "exact": (text.exact_match, text.VERSION),
    "number": (number.number_match, number.VERSION),
    "reasoning_gym": (gym.verify_gym, gym.VERSION),
}


def get_verifier(name: str) -> Verifier:
    """The check named; names are validated by the settings that hold them."""
    return _VERIFIERS[name][0]


def verifier_version(name: str) -> int:
    """Raised by hand when a check changes; part of fingerprints."""
    return _VERIFIERS[name][1]
