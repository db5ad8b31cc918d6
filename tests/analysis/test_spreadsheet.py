"""What is exported as CSV is shown by a spreadsheet, and never run."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.report.pages import _markdown_text
from analysis.report.spreadsheet import cell, safe


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "-", "＝1"])
def test_a_cell_that_would_be_run_is_quoted(text):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-0.5", "+3", "-1e-5", "-inf", "", "a=b", "2-1", "x", -0.5, None, 3, True])
def test_numbers_and_plain_text_stay_as_they_are(value):
    assert cell(value) is value


def test_a_table_is_quoted_with_its_headings_and_its_numbers_are_not():
    table = pd.DataFrame({"=x": ["=1", None, "a"], "n": [-1.5, 2.0, 3.0], "mixed": [-1, "-x", None]})
    text = safe(table).to_csv(index=False, lineterminator="\n")
    assert text == "'=x,n,mixed\n'=1,-1.5,-1\n,2.0,'-x\na,3.0,\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("`x` *y* _z_ ~~w~~ $q$", "\\`x\\` \\*y\\* \\_z\\_ \\~\\~w\\~\\~ \\$q\\$"),
        ("<b>&lt;[l](u)", "\\<b\\>&amp;lt;\\[l\\](u)"),
        ("# no heading", "\\# no heading"),
        ("- no list", "\\- no list"),
        ("1. no list", "1\\. no list"),
        ("\x1b[31m\u202e\r", "\\\\x1b\\[31m\\\\u202e\\\\r"),
        ("two\nlines", "two ⏎ lines"),
    ],
)
def test_markdown_shows_text_as_it_is(text, shown):
    assert _markdown_text(text) == shown
