"""Rewards by a pattern. The library regex gives up after a time; Python's re would not be stopped."""

from __future__ import annotations

import functools
import os
import re
import resource
from collections.abc import Sequence
from typing import Any

from workbench.errors import RewardError
from workbench.rewards.keeper import fork, limit_memory
from workbench.rewards.reward import Sample, show

VERSION = 2
MAX_SECONDS = 1.0
"""A completion may take to be matched: more means a pattern that tries ways without end, such as (a+)+."""
COMPILE_SECONDS = 2
COMPILE_BYTES = 128 << 20
TOO_MUCH = 9
_REPEAT = re.compile(r"\{\s*\d*\s*,?\s*\d{3,}|\}.*\{", re.DOTALL)
"""Counts that may multiply: a{1000}, (a{9}){9}."""


@functools.lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> Any:
    """The pattern, its classes ASCII's, so that no digit of another script counts. Raises ValueError where it is none,
    or one that takes more than COMPILE_SECONDS or COMPILE_BYTES: that is found out in a process that is limited."""
    if _REPEAT.search(pattern):
        _try_elsewhere(pattern)
    try:
        return _compile(pattern)
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        raise ValueError(f"found {pattern!r}, allowed a pattern ({_first_line(error)})") from error
    except Exception as error:  # regex has an error of its own
        if type(error).__module__.startswith("regex"):
            raise ValueError(f"found {pattern!r}, allowed a pattern ({_first_line(error)})") from error
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _compile(pattern: str) -> Any:
    import regex

    return regex.compile(pattern, regex.ASCII | regex.VERSION0)


def _try_elsewhere(pattern: str) -> None:
    """Raises ValueError where a process with little memory and time does not compile the pattern."""
    import regex  # noqa: F401 - once, before the fork

    pid = fork()
    if pid == 0:
        try:
            limit_memory(COMPILE_BYTES)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (COMPILE_SECONDS, COMPILE_SECONDS + 1))
            _compile(pattern)
            os._exit(0)
        except MemoryError:
            os._exit(TOO_MUCH)
        except BaseException:  # which is told where it is compiled again
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise ValueError(
            f"found {pattern!r}, which takes more than {COMPILE_SECONDS} s or {COMPILE_BYTES >> 20} MB to read, "
            "allowed patterns with smaller repeats"
        )


def pattern_reward(compiled: Any, match: str, name: str, samples: Sequence[Sample]) -> list[float]:
    """1 where the completion matches, whole or anywhere, a "<think>" that its prompt opened included. Raises
    RewardError where that takes too long."""
    matches = compiled.fullmatch if match == "whole" else compiled.search
    values = []
    for sample in samples:
        try:
            values.append(float(matches(sample.prefill + sample.completion, timeout=MAX_SECONDS) is not None))
        except TimeoutError:
            raise RewardError(
                f"reward {name}: the pattern {compiled.pattern!r} took more than {MAX_SECONDS:g} s, allowed patterns "
                f"without repeats inside repeats, such as (a+)+; {show(sample)}"
            ) from None
    return values
