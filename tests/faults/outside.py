"""A pytest plugin, `-p tests.faults.outside`: leaves out the tests of the fault matrix, which `make faults` runs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.rows import rows_of


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Keep the others."""
    items[:] = [item for item in items if not rows_of(item.nodeid)]
