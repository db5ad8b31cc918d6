"""Answers in LaTeX, compared by the library math-verify: 1/2 is \\frac{1}{2}, 2\\sqrt{3} is \\sqrt{12}.

It runs in a process of its own with limits, for an expression may cost any time and memory: what takes more than
MAX_SECONDS or MEMORY_BYTES is not right.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence

from workbench.rewards.number import GAP as _GAP
from workbench.rewards.number import extract_number
from workbench.rewards.reward import RewardFunction, Sample

VERSION = 1
MAX_SECONDS = 5.0
"""The seconds that one completion and its answer may take."""
MEMORY_BYTES = 2 << 30
MAX_CHARACTERS = 20_000
"""How many characters of a completion are read, counted from its end."""
MAX_BARE = 200
"""How many characters an expression without marks may have."""
_DELIMITED = re.compile(r"\$|\\\(|\\\[|\\boxed\s*\{")
_SIGN = re.compile(r"[\\^_{}()\[\]+*/=<>\d-]|^[A-Za-z]$")
"""The signs of an expression; words have none of them."""
_COMMAND = re.compile(r"\\[A-Za-z]{2,}|\$[^$\n]*\^[^$\n]*\$")
_FBOX = re.compile(r"\\fbox\s*\{")
_SAID = re.compile(r"(?:####|[Aa]nswer(?: is|\s?[:=]))(.*)\s*$")


def math_match(prompt: str, completion: str, answer: str | None) -> float:
    """1 when the completion's last expression (in its last boxes, between $ or \\( \\), else its last number) is the
    answer's, by value; 0 also where that cannot be told within the limits."""
    if answer is None:
        return 0.0
    return float(_ask("match", answer, completion))


def is_math(answer: str) -> bool:
    """Whether an answer can be compared with: an expression is found in it."""
    return _ask("read", answer, "") == 1.0


def answer_in(completion: str) -> str | None:
    """What a completion says as its answer, between LaTeX's marks; None where no expression is found in it. Words are
    one, as math_match reads them: east is \\text{east}."""
    said = _said(completion[-MAX_CHARACTERS:])
    return said if said and is_math(said) else None


def looks_like_latex(answer: str) -> bool:
    """Whether it holds what only LaTeX has."""
    return _COMMAND.search(answer) is not None


def _ask(task: str, answer: str, completion: str) -> float:
    sample = Sample(task, completion[-MAX_CHARACTERS:], answer, 0, True, 0)
    found = _process(os.getpid())([sample])
    return float(found[0])


@functools.lru_cache(maxsize=1)
def _process(_owner: int) -> RewardFunction:
    """The function that scores in a process of its own, one for each process that asks."""
    from workbench.rewards.workers import WorkerPool

    return WorkerPool("math", _load, 1, MAX_SECONDS, lost=0.0, memory_bytes=MEMORY_BYTES)


def _load() -> RewardFunction:
    import logging

    import math_verify

    # Time is kept from outside: its own signals would not stop a long step of Python's arithmetic.
    logging.disable(logging.CRITICAL)

    @functools.lru_cache(maxsize=4096)
    def read(text: str) -> list:
        return math_verify.parse(text, parsing_timeout=None)

    def one(sample: Sample) -> float:
        gold = read(_gold(sample.answer or ""))
        if sample.prompt == "read" or not gold:
            return float(bool(gold))
        said = math_verify.parse(_said(sample.completion), parsing_timeout=None)
        return float(bool(said) and math_verify.verify(gold, said, timeout_seconds=None))

    def score(samples: Sequence[Sample]) -> list[float]:
        try:
            return [one(sample) for sample in samples]
        except (Exception, RecursionError):  # what it cannot read is not right
            return [0.0] * len(samples)

    return score


def _gold(answer: str) -> str:
    """The answer as math-verify reads one: behind ####, and what stands bare and is no number between its marks."""
    text = _GAP.sub("", answer.rpartition("####")[2].strip())
    bare = not _DELIMITED.search(text) and extract_number(text) is None and _SIGN.search(text)
    return f"${text}$" if bare else text


def _said(completion: str) -> str:
    """What a completion says, as LaTeX. Where it has no marks, that is the one plain number that the text gives; else
    its answer's line, or all of it."""
    text = _GAP.sub("", _FBOX.sub(r"\\boxed{", completion))
    if _DELIMITED.search(text):
        return text
    number = extract_number(text)
    if number is not None:
        return f"${number}$"
    marked = _SAID.search(text)
    tail = (marked[1] if marked else text).strip().rstrip(".")
    return f"${tail}$" if len(tail) <= MAX_BARE and "\n" not in tail else ""
