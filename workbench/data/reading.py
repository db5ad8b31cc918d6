"""Records as examples of one kind; bad rows are named all at once, or left out and counted where that is asked."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.data.bad_rows import BadRows
from workbench.data.formats import FORMATS, Example, Form, kind_of, parse_example, serves
from workbench.data.hub import dataset_files, dataset_records
from workbench.data.settings import DatasetData, FileData, ReadData
from workbench.data.sources import Record, read_records
from workbench.errors import DataError

WANTED: dict[Form, str] = {
    "rows": "text; prompt, completion; messages",
    "pairs": "prompt, chosen, rejected",
    "unpaired": "prompt, completion, label",
    "prompts": "prompt; prompt, answer; prompt, completion; messages",
}
NO_TRAINER = "no trainer here takes unpaired rows yet; to learn from every completion, remove the column label"


def open_records(settings: ReadData) -> Iterator[Record]:
    """The records that the settings name, at most settings.rows of them. DataError where there are none to read."""
    if isinstance(settings, FileData):
        return itertools.islice(read_records(Path(settings.path).expanduser()), settings.rows)
    assert isinstance(settings, DatasetData), "rows are read from a file or a data set"
    return itertools.islice(dataset_records(settings), settings.rows)


def local_files(settings: ReadData) -> list[Path]:
    """The data files that the settings name on this machine; none of a data set of the hub or one that was saved."""
    if isinstance(settings, FileData):
        return [Path(settings.path).expanduser()]
    assert isinstance(settings, DatasetData)
    return dataset_files(settings)


def find_form(settings: ReadData, form: Form) -> Form:
    """The form of the first row that has one, that which is wanted where it has several; the wanted where none has."""
    for record in open_records(settings):
        try:
            return FORMATS[kind_of(renamed(record.fields, settings.columns), form)].form
        except ValueError:
            continue
    return form


def renamed(fields: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The fields under the names that the format gives them. columns: the data's own name by the format's."""
    taken = {column: name for name, column in columns.items() if column in fields}
    kept = {name: value for name, value in fields.items() if name not in taken}
    return kept | {name: fields[column] for column, name in taken.items()}


@dataclass
class Examples:
    """The records as examples, one at a time, so that the text of all is never held at once.

    form: what is wanted; a file of another kind is a DataError. columns: the file's column by the format's name.
    """

    records: Iterable[Record]
    form: Form
    bad: BadRows
    as_chat: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    name: str = "the data"
    """What is read, for a message about all of it."""
    kind: str | None = None
    """The format, known once a row was read."""

    def __iter__(self) -> Iterator[Example]:
        found = False
        for record in self.records:
            try:
                if record.problem:
                    raise ValueError(record.problem)
                absent = [column for column in self.columns.values() if column not in record.fields]
                if absent:
                    raise ValueError(f"has no column {absent[0]}, which data.columns names")
                yield self._parse(record.where, renamed(record.fields, self.columns))
                found = True
            except ValueError as error:
                self.bad.add(record.where, error)
        self.bad.check()
        if not found:
            first = f"; the first: {self.bad.first[0]}" if self.bad.first else ""
            raise DataError(f"{self.name}: no row in it can be used{first}")

    def _parse(self, where: str, fields: Mapping[str, Any]) -> Example:
        if self.kind is None:
            self.kind = kind_of(fields, self.form)
            if not serves(self.kind, self.form):
                needed = NO_TRAINER if self.kind == "unpaired" else f"this needs rows of {WANTED[self.form]}"
                raise DataError(f"{where}: found {self.kind} rows, {needed}")
        return parse_example(self.kind, fields, as_chat=self.as_chat, where=where)


def read_examples(path: Path, *, form: Form, skip_bad: bool = False) -> tuple[list[Example], list[str]]:
    """All examples of a file, and a line for each of the first bad rows that were left out ("file:line: reason").

    DataError, a line a bad row, unless skip_bad.
    """
    bad = BadRows(skip_bad)
    return list(Examples(read_records(path), form, bad, name=str(path))), bad.first
