"""A pytest plugin, `-p tests.faults.selection`: `--faults 1,17` keeps the tests of those rows of the matrix alone,
`--faults none` leaves out all that `make faults` runs. `--cases 5` keeps so many cases (two at least) of each contract
test that is not slow: each of them trains, and `make test` runs them all."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from tests.faults.rows import rows_of


def pytest_addoption(parser: pytest.Parser) -> None:
    """Workers of pytest -n get the options too."""
    parser.addoption("--faults", required=True, help="numbers of rows of the fault matrix, or none")
    parser.addoption("--cases", type=int, help="of each contract test that is not slow (default: all)")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Keep what was asked for."""
    said = config.getoption("faults")
    if said == "none":
        items[:] = [item for item in items if not rows_of(item.nodeid)]
    else:
        wanted = {int(number) for number in said.split(",")}
        items[:] = [item for item in items if wanted.intersection(rows_of(item.nodeid))]
    if most := config.getoption("cases"):
        items[:] = some_of(items, most)


def some_of(items: list[Any], most: int) -> list[Any]:
    """In their order, and of the cases of each contract test that is not slow at most so many, from first to last."""
    cases: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        if "contracts/" in item.nodeid and item.get_closest_marker("slow") is None:
            cases[item.nodeid.split("[")[0]].append(item)
    left_out = {item for found in cases.values() for item in found} - {
        found[round(index * (len(found) - 1) / (most - 1))] for found in cases.values() for index in range(most)
    }
    return [item for item in items if item not in left_out]
