"""Rows as a test reads them: by the name of what is wanted of a file."""

from __future__ import annotations

from pathlib import Path

from workbench.data.bad_rows import BadRows
from workbench.data.formats import Example
from workbench.data.forms import FORMS
from workbench.data.reading import Examples
from workbench.data.sources import read_records
from workbench.data.wanted import HELD_OUT

WANTED = {name: form.wanted for name, form in FORMS.items()} | {"held_out": HELD_OUT}


def read_examples(path: Path, *, form: str, skip_bad: bool = False) -> tuple[list[Example], list[str]]:
    """All examples of a file, and a line for each of the first bad rows that were left out."""
    bad = BadRows(skip_bad)
    return list(Examples(read_records(path), WANTED[form], bad, name=str(path))), bad.first
