"""Checks against a reference answer: as text, or by the last number."""

from __future__ import annotations

import re
from fractions import Fraction

VERSION = 1
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?", re.ASCII)


def exact_match(prompt: str, completion: str, answer: str | None) -> float:
    """1 when completion and answer are the same text, spaces at the ends aside."""
    return float(answer is not None and completion.strip() == answer.strip())


def extract_number(text: str) -> Fraction | None:
    """The number after the last `####`, else the last number in the text."""
    _, mark, tail = text.rpartition("####")
    found = _NUMBER.findall(tail if mark else text)
    if not found:
        return None
    return Fraction((found[0] if mark else found[-1]).replace(",", ""))


def number_match(prompt: str, completion: str, answer: str | None) -> float:
    """1 when completion and answer end in the same number."""
    number = extract_number(completion)
    return float(number is not None and answer is not None and number == extract_number(answer))
