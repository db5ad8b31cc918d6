"""Countdown: reach a target from given numbers, each used exactly once. A hand-written parser; nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

VERSION = 1
MAX_CHARACTERS = 200
MAX_DEPTH = 20
_PROMPT = re.compile(r"make ([0-9]+) from ([0-9]+(?: [0-9]+)*): ")
_TOKEN = re.compile(r" *([0-9]+|[-+*/()])", re.ASCII)


def countdown_prompt(target: int, numbers: Sequence[int]) -> str:
    """The prompt that asks for an expression over `numbers` of value `target`."""
    return f"make {target} from {' '.join(map(str, numbers))}: "


def is_countdown_prompt(prompt: str) -> bool:
    """Whether the prompt is one that countdown_prompt writes; no completion is right for another."""
    return _PROMPT.fullmatch(prompt) is not None


def verify_countdown(prompt: str, completion: str, answer: str | None = None) -> float:
    """1 when the completion is an expression of + - * / and parentheses that uses every number exactly once and
    equals the target in exact arithmetic; else 0."""
    match = _PROMPT.fullmatch(prompt)
    if match is None:
        return 0.0
    try:
        parser = _Parser(completion)
        value = parser.parse()
    except (ValueError, ZeroDivisionError):
        return 0.0
    return float(value == int(match[1]) and sorted(parser.numbers) == sorted(int(n) for n in match[2].split()))


class _Parser:
    """Recursive descent over sum := product (+- product)*, product := atom (*/ atom)*, atom := number | ( sum )."""

    def __init__(self, text: str) -> None:
        self.numbers: list[int] = []
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def parse(self) -> Fraction:
        """The value of the whole text. Raises ValueError where it is no expression."""
        value = self._sum()
        if self._at < len(self._tokens):
            raise ValueError("text after the expression")
        return value

    def _next(self, allowed: str) -> str | None:
        if self._at < len(self._tokens) and self._tokens[self._at] in allowed:
            self._at += 1
            return self._tokens[self._at - 1]
        return None

    def _sum(self) -> Fraction:
        value = self._product()
        while sign := self._next("+-"):
            term = self._product()
            value = value + term if sign == "+" else value - term
        return value

    def _product(self) -> Fraction:
        value = self._atom()
        while sign := self._next("*/"):
            factor = self._atom()
            value = value * factor if sign == "*" else value / factor
        return value

    def _atom(self) -> Fraction:
        if self._next("("):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise ValueError("nested too deep")
            value = self._sum()
            if not self._next(")"):
                raise ValueError("a parenthesis is not closed")
            self._depth -= 1
            return value
        token = self._tokens[self._at] if self._at < len(self._tokens) else ""
        if not token.isdigit() or (len(token) > 1 and token[0] == "0"):
            raise ValueError("a number is expected")
        self._at += 1
        self.numbers.append(int(token))
        return Fraction(int(token))


def _tokens(text: str) -> list[str]:
    text = text.strip(" ")
    if len(text) > MAX_CHARACTERS:
        raise ValueError("too long")
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError("not an expression")
        tokens.append(match[1])
        at = match.end()
    return tokens
