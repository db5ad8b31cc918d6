"""The order in which the workers of pytest -n get the tests."""

from __future__ import annotations

import pytest

from tests.order import in_order

TESTS = ["short 1", "long 1", "short 2", "alone 1", "short 3", "long 2", "short 4", "alone 2", "long 3", "short 5"]


def marks(tests: list[str]) -> list[str]:
    return ["" if test.startswith("short") else test.split()[0] for test in tests]


def test_each_worker_begins_with_its_share_of_the_long_tests_and_those_that_run_alone_come_first_and_together():
    found = in_order(TESTS, marks(TESTS), workers=2)
    assert found[:5] == ["alone 1", "alone 2", "long 1", "long 3", "short 1"]
    assert found[5:] == ["long 2", "short 2", "short 3", "short 4", "short 5"]


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 40])
def test_each_test_comes_once(workers):
    assert sorted(in_order(TESTS, marks(TESTS), workers)) == sorted(TESTS)
    assert in_order([], [], workers) == []
