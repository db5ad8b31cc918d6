"""Completions that are wanted or not, each by itself, as KTO takes them."""

from __future__ import annotations

from workbench.data import formats
from workbench.data.formats import Unpaired
from workbench.data.forms.judged import JudgedRows
from workbench.data.wanted import Wanted


class UnpairedRows(JudgedRows):
    """Rows that are labelled true or false."""

    name = "unpaired"
    wanted = Wanted((formats.UNPAIRED,), "prompt, completion, label")
    sources_text = "path or dataset, of rows of prompt, completion and label"
    example_file = "labelled.jsonl"
    value = "desirable"
    dtype = bool

    def judge(self, example: Unpaired) -> bool:
        return example.label


UNPAIRED = UnpairedRows()
