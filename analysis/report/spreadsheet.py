"""Cells of a CSV file that a spreadsheet shows and does not run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*|[-+]?(inf|nan)", re.IGNORECASE)
_RUN = re.compile(r"[\s\x00]*[=+\-@＝＋－＠]|[\t\r\n]")
"""What a spreadsheet takes for the beginning of a formula."""


def cell(value: Any) -> Any:
    """The value; text that would be run gets an apostrophe before it, which a spreadsheet does not show. Numbers stay
    numbers."""
    if isinstance(value, str) and _RUN.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def safe(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every cell and heading so."""
    found = table.rename(columns=cell)
    for name, kind in found.dtypes.items():
        if kind.kind == "O":
            found[name] = found[name].map(cell, na_action="ignore")
    return found
