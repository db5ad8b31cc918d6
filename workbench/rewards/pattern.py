"""Rewards by a pattern. The library regex gives up after a time; Python's re would not be stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.errors import RewardError
from workbench.rewards.reward import Sample, show

VERSION = 1
MAX_SECONDS = 1.0
"""A completion may take to be matched: more means a pattern that tries ways without end, such as (a+)+."""


def compile_pattern(pattern: str) -> Any:
    """The pattern, its classes ASCII's, so that no digit of another script counts. ValueError where it is none."""
    import regex

    try:
        return regex.compile(pattern, regex.ASCII | regex.VERSION0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"found {pattern!r}, allowed a pattern ({str(error).splitlines()[0]})") from error


def pattern_reward(compiled: Any, match: str, name: str, samples: Sequence[Sample]) -> list[float]:
    """1 where the completion matches, whole or anywhere. RewardError where that takes too long."""
    matches = compiled.fullmatch if match == "whole" else compiled.search
    values = []
    for sample in samples:
        try:
            values.append(float(matches(sample.completion, timeout=MAX_SECONDS) is not None))
        except TimeoutError:
            raise RewardError(
                f"reward {name}: the pattern {compiled.pattern!r} took more than {MAX_SECONDS:g} s, allowed patterns "
                f"without repeats inside repeats, such as (a+)+; {show(sample)}"
            ) from None
    return values
