"""Numbers are written so that what differs looks different."""

from __future__ import annotations

import pytest

from analysis.measures import BY_COLUMN


@pytest.mark.parametrize(
    ("column", "low", "high", "text"),
    [
        ("eval/exact_match_sampled", 0.64991, 0.65008, "0.6499 to 0.6501"),
        ("eval/exact_match_sampled", 0.25, 0.65, "0.250 to 0.650"),
        ("eval/loss", 4.5098, 4.5103, "4.5098 to 4.5103"),
        ("eval/loss", 4.51, 4.51, "4.51 to 4.51"),
    ],
)
def test_the_ends_of_an_interval_are_told_apart(column: str, low: float, high: float, text: str) -> None:
    assert BY_COLUMN[column].span(low, high) == text
