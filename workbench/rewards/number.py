"""Checks by the one plain number that a text gives as its answer.

Exact arithmetic on what a pattern found; nothing is evaluated. A number that is part of something else is none: of a
formula, a power, a mixed number, a range, a list, a date, a word. What touches a number must be known to leave it as
it is (quotes, currency, punctuation, units, ...), and what stands a space away must not go on with it.
"""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction

VERSION = 7
MAX_DIGITS = 1000
MAX_EXPONENT_DIGITS = 3
BESIDE = 64
"""Characters on each side of a number that are looked at."""
# Commas part groups of three digits.
_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d++)(?:\.\d++)?|(?<![\w)])\.\d++)"
# 1/2/2026 is no fraction.
_NUMBER = re.compile(
    r"(?P<sign>[-+](?:\\?[$€£¥₹])?)?(?:"
    rf"\\[dt]?frac\{{(?P<minus>-?)(?P<top>{_DECIMAL})\}}\{{(?P<bottom>{_DECIMAL})\}}"
    rf"|(?<![\d/])(?P<over>{_DECIMAL})/(?P<under>{_DECIMAL})(?![\d/])"
    rf"|(?P<plain>{_DECIMAL}(?:[eE][-+]?\d++)?))",
    re.ASCII,
)
_DASHES = str.maketrans(dict.fromkeys("\N{MINUS SIGN}\N{EN DASH}\N{NON-BREAKING HYPHEN}", "-"))
BOX = "\\boxed{"
_BOXED = re.compile(r"\\boxed\{")
_ANY_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_POWER = re.compile(r"\s*\^")
_BRACE = re.compile(r"(?<!\\)[{}]")
_SAID = re.compile(r"(?:[Aa]nswer(?: is|\s?[:=])|(?:^|(?<=\s))A:)(.*)", re.MULTILINE)
_NAMED = re.compile(r"\s*\\?[A-Za-z]+(?:_\{?\w+\}?)?\s*=([^=]*)", re.ASCII)
"""x_1 = 4: what is said of a name."""

# What a text says of a number without changing it: gaps between groups of three digits, LaTeX's words and sizes, tags.
GAP = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!|,\\!|[\u2009\u202f\xa0])(?=\d{3}(?!\d))", re.ASCII)
_WORDS = re.compile(r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|mathit|mbox|underline|emph)\s*\{([^{}]*)\}")
_PART = re.compile(r"<\|[^<>\n]{0,80}\|>|</?(?:think|answer|solution|reasoning|br|p|div|li)\b[^<>\n]{0,80}>")
"""A tag that parts what stands before it from what follows, as a line break does."""
_TAG = re.compile(r"<<[^<>\n]{0,80}>>|</?[A-Za-z][^<>\n]{0,80}>")
_SIZE = re.compile(r"\\(?:left|right|displaystyle|quad)(?![A-Za-z])|\\[,;:! ]|~(?=[\sA-Za-z]|$)")

_GLUED_UNITS = (
    r"(?:kg|mg|lbs?|oz|km|cm|mm|ft|in|mi|yd|ml|mL|kmh|kph|mph|hrs?|mins?|secs?|am|pm|AM|PM|cents?|USD|EUR|GBP)(?![\w^])"
)
_WORDS_OF_SIZE = (
    r"(?:hundred|thousand|million|billion|trillion|lakh|crore|mn|bn|tn|dozen|gross|score|squared|cubed|factorial)"
)
_MONTHS = r"(?:Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec|January|February|March|April|May|June?|July?|August|September|October|November|December)"  # noqa: E501
_JOINS = r"(?:and|or|to|through|of|out of|by|x|in|vs?\.?|versus)"
_MARKS = (
    r"(?:approx|equiv|sim|simeq|cong|implies|iff|to|[Ll]?ongrightarrow|[Rr]ightarrow|therefore|item|newline|par|bf|rm|it"
    r"|[lL]arge|[nrt])"
)
"""Commands of LaTeX that leave the number behind them as it is, and line breaks that were written out."""
_UNITS = (
    ("years?", "months?|weeks?|days?"), ("months?", "weeks?|days?"), ("weeks?", "days?"), ("days?", "hours?|hrs?|h"),
    ("hours?|hrs?|h", "minutes?|mins?|m|seconds?|secs?|s"), ("minutes?|mins?|m", "seconds?|secs?|s"),
    ("feet|foot|ft", "inch(?:es)?|in"), ("yards?|yd", "feet|foot|ft|inch(?:es)?"), ("miles?|mi", "yards?|feet|ft"),
    ("pounds?|lbs?", "ounces?|oz"), ("dollars?|euros?", "cents?"), ("km|kilomet(?:er|re)s?", "m|met(?:er|re)s?"),
    ("m|met(?:er|re)s?", "cm|centimet(?:er|re)s?|mm"), ("cm", "mm"),
    ("kg|kilograms?", "g|grams?"), ("l|lit(?:er|re)s?", "ml"),
)  # fmt: skip
"""The units of a quantity in two units, such as 2 hours and 30 minutes."""
_IN_TWO_UNITS = [
    (
        re.compile(rf"\d[ \t]*(?:{more})[ \t]*,?(?:[ \t]*(?:and|&))?[ \t]+$", re.ASCII),
        re.compile(rf"[ \t]*(?:{less})\b"),
    )
    for more, less in _UNITS
]
_LETTER = r"(?<![A-Za-z\\'])[A-Za-z]"
"""A letter that stands alone: a variable."""
_OPEN, _CLOSE = r"[(\[{\"'“‘`*_$€£¥₹]", r"(?:[)\]}\"'”’`*_]|\\?[%$€£¥₹¢]|°[CF]?|\\degree|\^\{?\\circ\}?|\\[)\]])"

# One line a kind. Spaces, not line breaks: what stands on another line is another thing.
_TOUCHES_BEFORE = re.compile(rf"(?:^|\s|{_OPEN}|[=:~≈#—]|[-=]>|(?<=[^\W\d])[,;]|\\[(\[])$")
_GOES_ON_BEFORE = re.compile(
    "|".join(
        (
            rf"(?:[\d)}}\]!]|{_LETTER})[ \t]*(?:[-+*/^×·÷]|\*\*)[ \t]*{_OPEN}*$",  # 2 + 3, (1 + 2)/3, n - 3
            rf"[/^×·÷±<≤≥≠√∛|][ \t]*{_OPEN}*$",  # half / 3, 2 < 3, |3|
            r"[^\s][ \t]*(?<![-=])>[ \t]*$",  # x > 3; a line that begins with > is a quotation
            r"[!<>]=[ \t]*$",
            r"[\w)\]}][({\[*_]+$",  # f(3, 2(3), \sqrt{3}, 2*3, x_3
            rf"\w[ \t]+[*+][ \t]+{_OPEN}*$",  # apples * 3
            rf"\d{_CLOSE}*[ \t]*[,;]\s*{_OPEN}*$",  # 2, 3
            rf"\d{_CLOSE}*[ \t]+{_OPEN}*(?:(?:{_JOINS}|&)[ \t]+)?{_OPEN}*$",  # 1 234, 3 1/2, 2 or 3, 2 to 3
            rf"\d{_CLOSE}*,?[ \t]+or[ \t]+{_OPEN}*\\?[A-Za-z](?:_\{{?\w+\}}?)?[ \t]*=[ \t]*{_OPEN}*$",  # x = 2 or x = 3
            rf"\\(?!{_MARKS}(?![A-Za-z]))[A-Za-z]+[ \t]*{_OPEN}*$",  # x \geq 3, \pm 3
            r"\d~$",
            r"\d:$|\d[ \t]+:[ \t]*$",  # 2:3
            r"\d['\u2019]$",  # 1'234, 5'10
            r"(?:\b(?:[Nn]ot|negative|minus|plus|times|over|than|sqrt|log|root|(?:root|power) of)|n['’]t)[ \t]+$",
            rf"\b{_MONTHS}\.?[ \t]+$",
        )
    ),
    re.ASCII,
)
_TOUCHES_AFTER = re.compile(
    rf"{_CLOSE}*+(?:$|\s|[,;:?](?!\d)|!(?![!=\w])|\.(?![\d_a-z])|=|—|-+\s*$|\\\\|{_GLUED_UNITS}|/[a-z]{{2,}})", re.ASCII
)
_GOES_ON_AFTER = re.compile(
    rf"{_CLOSE}*+(?:"
    + "|".join(
        (
            r"[ \t]*[+/^×·÷±<>≤≥≠√](?![a-z]{2})",
            r"[ \t]+\*(?!\*?[A-Za-z]{2})|\*+[\w(]",
            r"[ \t]+-[ \t]*(?![A-Za-z]{2})\S",
            r"[ \t]*\\(?!f?box|degree)[A-Za-z]",  # 2 \sqrt{3}
            r"[ \t]+(?:times|plus|minus)[ \t]+(?:\d|[b-zB-Z](?![A-Za-z]))",
            r"[ \t]+[({\[]?\\?[$€£¥]?\d|[,;:][ \t]*\d",  # 1 234; 2, 3
            r"[ \t]+[({\[](?![A-Za-z]{2})",
            rf"[ \t]+{_JOINS}[ \t]+{_OPEN}*\d",
            r"[ \t]+(?![aIdghlmsACFJKLNVW]|[pie]\.[mge])[A-Za-z](?![A-Za-z'’])",  # 2 x; 2 m and 2 a day are none
            r"[ \t]+[A-Za-z]\^",
            rf"[ \t]+(?:{_WORDS_OF_SIZE}|{_MONTHS})(?![A-Za-z])",
        )
    )
    + ")",
    re.ASCII,
)


def number_match(prompt: str, completion: str, answer: str | None) -> float:
    """1 when completion and answer end in the same number, by value; a text without a number is wrong."""
    number = extract_number(completion)
    return float(number is not None and answer is not None and number == extract_number(answer))


def extract_number(text: str) -> Fraction | None:
    """The plain number that a text gives as its answer. The first of these marks that the text has decides:

    1. `####`: the first number after the last one;
    2. `\\boxed{...}` or `\\fbox{...}`: the one number in the last one;
    3. "answer is", "answer:" or "A:": the last number on the last such line, if it has one;
    4. none: the last number in the text.
    Currency, % and units are left out (50% is 50); 3/4, \\frac{3}{4}, 1e3, 1,234.50 and 1\\,234 are read. None where
    there is no number after 1 or in 2, where that number is part of something else (10^3, 3 1/2, 2\\sqrt{3}, 2 to 3,
    2, 3, 1/2/2026, 5 million), and for a division by zero, more than 1,000 digits or an exponent of more than three.
    """
    text = GAP.sub(",", _without_other_digits(text).translate(_DASHES))
    for _ in range(2):  # of words in words
        text = _WORDS.sub(r" \1 ", text)
    text = _SIZE.sub(" ", _TAG.sub(" ", _PART.sub("\n", text)))
    _, mark, tail = text.rpartition("####")
    if mark:
        return _value(_NUMBER.search(tail))
    box = last_box(text, _ANY_BOX)
    if box is not None:
        return None if _POWER.match(box[1] or "") else _only(box[0])
    said = [line for line in _SAID.findall(text)[-1:] if _NUMBER.search(line)]
    return _value(_last(said[0] if said else text))


def _without_other_digits(text: str) -> str:
    """The text without numbers that hold a digit of another script, a raised one or a fraction: 18² is not 18."""
    if text.isascii():
        return text
    import regex

    return regex.sub(r"[0-9.,]*+(?![0-9])\p{N}[\p{N}.,]*+", " ", text)


def last_box(text: str, marks: re.Pattern[str] = _BOXED) -> tuple[str, str | None] | None:
    """(content, what follows it) of the last \\boxed{...}, braces in it balanced; all of the rest, and None, where it
    is not closed. None where there is no box. marks: what else begins one."""
    found = _last(text, marks)
    if found is None:
        return None
    tail = text[found.end() :]
    depth = 1
    for brace in _BRACE.finditer(tail):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return tail[: brace.start()], tail[brace.end() :]
    return tail, None


def _only(text: str) -> Fraction | None:
    """The number of a box, which has no other: 18, 18 apples, x_1 = 18."""
    named = _NAMED.fullmatch(text)
    text = named[1] if named else text
    found = list(_NUMBER.finditer(text))
    return _value(found[0]) if len(found) == 1 and "!" not in text else None


def _last(text: str, pattern: re.Pattern[str] = _NUMBER) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _stands_alone(found: re.Match[str]) -> bool:
    text, start, end = found.string, found.start(), found.end()
    before, after = text[max(0, start - BESIDE) : start], text[end : end + BESIDE]
    if found["sign"] and re.search(rf"{_LETTER}[ \t]*$", before, re.ASCII):  # x -3
        return False
    if any(more.search(before) and less.match(after) for more, less in _IN_TWO_UNITS):
        return False
    return bool(
        _TOUCHES_BEFORE.search(before)
        and not _GOES_ON_BEFORE.search(before)
        and _TOUCHES_AFTER.match(after)
        and not _GOES_ON_AFTER.match(after)
    )


def _value(found: re.Match[str] | None) -> Fraction | None:
    if found is None or len(found[0]) > MAX_DIGITS or not _stands_alone(found):
        return None
    sign = -1 if (found["sign"] or "").startswith("-") != bool(found["minus"]) else 1
    if found["plain"]:
        digits, _, exponent = found["plain"].lower().replace(",", "").partition("e")
        if len(exponent.lstrip("+-")) > MAX_EXPONENT_DIGITS:
            return None
        return sign * Fraction(f"{digits}e{exponent or 0}")
    over, under = found["over"] or found["top"], Fraction((found["under"] or found["bottom"]).replace(",", ""))
    return sign * Fraction(over.replace(",", "")) / under if under else None
