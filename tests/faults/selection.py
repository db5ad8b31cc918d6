"""A pytest plugin, `-p tests.faults.selection`: `--faults 1,17` keeps the tests of those rows of the matrix alone,
`--faults none` leaves out all that `make faults` runs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.rows import rows_of


def pytest_addoption(parser: pytest.Parser) -> None:
    """Workers of pytest -n get the option too."""
    parser.addoption("--faults", required=True, help="numbers of rows of the fault matrix, or none")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Keep what was asked for."""
    said = config.getoption("faults")
    if said == "none":
        items[:] = [item for item in items if not rows_of(item.nodeid)]
    else:
        wanted = {int(number) for number in said.split(",")}
        items[:] = [item for item in items if wanted.intersection(rows_of(item.nodeid))]
