"""What a field of a row may hold, in words for the one who wrote it: a ValueError is the rest of "file:line: ..."."""

from __future__ import annotations

import math
import re
import sys
from typing import Any

from workbench.data.sources import shown

EXACT = 1 << 53
"""Below it a float that is whole is that whole number."""
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def text_of(value: Any, name: str, *, empty: bool = False) -> str:
    """The value where it is text; empty: it may hold nothing."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {describe(value)}, allowed text")
    if not empty and not value.strip():
        raise ValueError(f"{name} is empty, allowed text")
    check_characters(value, name)
    return value


def answer_of(value: Any, name: str) -> str:
    """The value where it is text or a finite number, as text: 42 and 42.0 are "42", 0.5 is "0.5"."""
    if _is_number(value) and abs(value) < math.inf:
        return str(int(value)) if value == int(value) and abs(value) < EXACT else repr(value)
    return text_of(value, name)


def flag_of(value: Any, name: str) -> bool:
    """The value where it is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {describe(value)}, allowed true or false")
    return value


def amount_of(value: Any, name: str) -> float:
    """The value where it is a finite number of at least 0."""
    if not _is_number(value):
        raise ValueError(f"{name} is {describe(value)}, allowed a number")
    if not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{name} is {shown(value)}, allowed a finite number >= 0")
    return float(value)


def number_of(value: Any, name: str) -> float:
    """The value where it is a finite number."""
    if not _is_number(value) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name} is {shown(value)}, allowed a finite number")
    return float(value)


def check_characters(text: str, name: str) -> None:
    """JSON can write half of a surrogate pair, which no encoding has."""
    if not text.isascii() and _HALF_PAIR.search(text):
        raise ValueError(f"{name} holds half of a surrogate pair, allowed whole characters")


def is_not_finite(value: Any) -> bool:
    """Whether a number, or a number as CSV writes it, is NaN or infinite."""
    if isinstance(value, str):
        return value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity")
    return isinstance(value, float) and not math.isfinite(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def describe(value: Any) -> str:
    """What kind of value was found."""
    return "null" if value is None else type(value).__name__
