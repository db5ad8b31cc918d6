"""Checks by the number that a text ends in. Exact arithmetic on what a pattern found; nothing is evaluated."""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction

VERSION = 4
MAX_DIGITS = 1000
MAX_EXPONENT_DIGITS = 3
# Commas part groups of three digits.
_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d++)(?:\.\d++)?|(?<!\d)\.\d++)"
# A minus after a word or a closing parenthesis is a difference (5-3), not a sign. 1/2/2026 is no fraction.
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)])-[$€£¥]?)?"
    rf"(?:(?<![\d/])(?P<over>{_DECIMAL})/(?P<under>{_DECIMAL})(?![\d/])|(?P<plain>{_DECIMAL}(?:[eE][-+]?\d++)?))",
    re.ASCII,
)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_DASHES = str.maketrans({"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-"})
BOX = "\\boxed{"
_BRACE = re.compile(r"(?<!\\)[{}]")
_SAID = re.compile(r"(?:[Aa]nswer(?: is|\s?[:=])|(?:^|(?<=\s))A:)(.*)", re.MULTILINE)


def number_match(prompt: str, completion: str, answer: str | None) -> float:
    """1 when completion and answer end in the same number, by value; a text without a number is wrong."""
    number = extract_number(completion)
    return float(number is not None and answer is not None and number == extract_number(answer))


def extract_number(text: str) -> Fraction | None:
    """The number that a text gives as its answer. The first of these marks that the text has decides:

    1. `####`: the first number after the last one;
    2. `\\boxed{...}`: the last number in the last one;
    3. "answer is", "answer:" or "A:": the last number on the last such line, if it has one;
    4. none: the last number in the text.
    Currency and % are left out (50% is 50); 3/4, \\frac{3}{4}, 1e3 and 1,234.50 are read. None where there is no number
    after 1 or in 2, and for a division by zero, more than 1,000 digits or an exponent of more than three.
    """
    text = _LATEX_FRACTION.sub(r"\1/\2", _without_other_digits(text).translate(_DASHES).replace("{,}", ","))
    _, mark, tail = text.rpartition("####")
    if mark:
        return _value(_NUMBER.search(tail))
    box = last_box(text)
    if box is not None:
        return _value(_last(box[0]))
    said = [line for line in _SAID.findall(text)[-1:] if _NUMBER.search(line)]
    return _value(_last(said[0] if said else text))


def _without_other_digits(text: str) -> str:
    """The text without numbers that hold a digit of another script, a raised one or a fraction: 18² is not 18."""
    if text.isascii():
        return text
    import regex

    return regex.sub(r"[0-9.,]*+(?![0-9])\p{N}[\p{N}.,]*+", " ", text)


def last_box(text: str) -> tuple[str, str | None] | None:
    """(content, what follows it) of the last \\boxed{...}, braces in it balanced; all of the rest, and None, where it
    is not closed. None where there is no box."""
    _, mark, tail = text.rpartition(BOX)
    if not mark:
        return None
    depth = 1
    for brace in _BRACE.finditer(tail):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return tail[: brace.start()], tail[brace.end() :]
    return tail, None


def _last(text: str) -> re.Match[str] | None:
    return next(iter(deque(_NUMBER.finditer(text), maxlen=1)), None)


def _value(found: re.Match[str] | None) -> Fraction | None:
    if found is None or len(found[0]) > MAX_DIGITS:
        return None
    sign = -1 if found["sign"] else 1
    if found["plain"]:
        digits, _, exponent = found["plain"].lower().replace(",", "").partition("e")
        if len(exponent.lstrip("+-")) > MAX_EXPONENT_DIGITS:
            return None
        return sign * Fraction(f"{digits}e{exponent or 0}")
    under = Fraction(found["under"].replace(",", ""))
    return sign * Fraction(found["over"].replace(",", "")) / under if under else None
