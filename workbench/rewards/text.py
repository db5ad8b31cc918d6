"""Checks against a reference answer: as text, or by the last number."""

from __future__ import annotations

import re
from fractions import Fraction

VERSION = 2
MAX_DIGITS = 1000
# A minus after a word or a closing parenthesis is a difference (5-3), not a sign. Commas part groups of three digits.
_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)", re.ASCII)


def exact_match(prompt: str, completion: str, answer: str | None) -> float:
    """1 when completion and answer are the same text, spaces at the ends aside."""
    return float(answer is not None and completion.strip() == answer.strip())


def extract_number(text: str) -> Fraction | None:
    """The number after the last `####`, else the last number in the text; None of more than 1,000 digits."""
    _, mark, tail = text.replace("\N{MINUS SIGN}", "-").rpartition("####")
    found = _NUMBER.findall(tail)
    if not found:
        return None
    number = (found[0] if mark else found[-1]).replace(",", "")
    return Fraction(number) if len(number) <= MAX_DIGITS else None


def number_match(prompt: str, completion: str, answer: str | None) -> float:
    """1 when completion and answer end in the same number."""
    number = extract_number(completion)
    return float(number is not None and answer is not None and number == extract_number(answer))
