"""Patterns made to cost are refused in one line, within time and memory."""

from __future__ import annotations

import resource
import time

import pytest

from workbench.rewards.pattern import COMPILE_BYTES, compile_pattern


@pytest.mark.parametrize("pattern", ["a{1000000000}", "(a{1000}){1000}", "((((a{99}){99}){99}){99}){99}",
                                     "(ab){ 90000000}",
                                     "a{3,1000000000}b"])  # fmt: skip
def test_a_pattern_that_takes_too_much_to_read_is_refused(pattern):
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        compile_pattern(pattern)
    except ValueError as error:
        assert "allowed patterns with smaller repeats" in str(error)  # noqa: PT017 - some of them are cheap
    assert time.monotonic() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < COMPILE_BYTES >> 9


@pytest.mark.parametrize("pattern", ["a{5}", "(?:(?:a|b){50}|c){50}", r"\d{1,1000}", "x{10}y{20}"])
def test_a_pattern_of_a_usual_size_is_taken(pattern):
    assert compile_pattern(pattern).pattern == pattern
