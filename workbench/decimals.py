"""Numbers as text writes them, in definitions, commands, data and models' files: none becomes another when read."""

from __future__ import annotations

import json
import math
import re
from typing import Any

_NOT_ZERO = re.compile(r"[^eE]*[1-9]")


def read_float(text: str) -> float:
    """Returns the number that a decimal text writes. Raises ValueError where it is infinite, no number, or would become
    0 and is not 0."""
    number = float(text)
    shown = text if len(text) <= 20 else f"{text[:20]}... ({len(text):,} characters)"
    if not math.isfinite(number):
        raise ValueError(f"{shown} is no finite number")
    if becomes_zero(text, number):
        raise ValueError(f"{shown} is so small that it would be read as 0")
    return number


def becomes_zero(text: str, number: float) -> bool:
    """Says whether a text writes a number that is not 0 and too small for the float that was read of it."""
    return number == 0.0 and _NOT_ZERO.match(text) is not None


def read_json_text(text: str | bytes) -> Any:
    """Returns the value of JSON text. Raises ValueError where it is none. NaN and Infinity, which are not JSON, are
    taken as Python's reader takes them, because models' files hold them."""
    return json.loads(text, parse_float=read_float)
