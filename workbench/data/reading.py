"""Records as examples of one kind; bad rows are named all at once, or left out and counted where that is asked."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.data.bad_rows import BadRows
from workbench.data.checks import number_of
from workbench.data.fields import (
    MISSING,
    TURN_LISTS,
    column_of,
    listed,
    no_format,
    no_such_column,
    refused_fields,
    renamed,
    unread_fields,
    without_absent,
)
from workbench.data.formats import TEXT, Example, Format, fields_of_formats, parse_example, parse_side
from workbench.data.hub import dataset_files, dataset_records
from workbench.data.settings import DatasetData, FileData, ReadData
from workbench.data.sources import Record, read_records
from workbench.data.wanted import PAIRS, NoFormatError, Wanted, format_of, side_of
from workbench.errors import DataError

MAX_NAMES = 40


def open_records(settings: ReadData) -> Iterator[Record]:
    """The records that the settings name, at most settings.rows of them. Raises DataError where there are none to
    read."""
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


def find_format(settings: ReadData, wanted: Wanted) -> Format | None:
    """The format of the first row that is of one, a wanted one where it is of several; None where none is."""
    for record in open_records(settings):
        try:
            if side_of(settings.columns, record.fields, wanted):
                return wanted.formats[0]
            return format_of(renamed(record.fields, settings.columns), wanted)
        except ValueError:
            continue
    return None


@dataclass
class Examples:
    """The records as examples, one at a time, so that the text of all is never held at once.

    A file of a format that is not wanted is a DataError. columns: the file's column by the format's name.
    ignored: columns that may be left out though what is learned would be another with them. difficulty: the column
    that says how hard a row is, where one is asked for; a row without a finite number there is a bad row.
    """

    records: Iterable[Record]
    wanted: Wanted
    bad: BadRows
    as_chat: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    name: str = "the data"
    """What is read, for a message about all of it."""
    ignored: Collection[str] = ()
    difficulty: str | None = None
    format: Format | None = None
    """The format, known once a row was read."""
    unread: dict[str, int] = field(default_factory=dict)
    """Rows by each field that has a value there and that nothing reads."""

    @classmethod
    def of(cls, settings: ReadData, wanted: Wanted, bad: BadRows, difficulty: str | None = None) -> Examples:
        """Makes the examples of the records that the settings name."""
        return cls(
            open_records(settings),
            wanted,
            bad,
            settings.chat_template,
            settings.columns,
            settings.source,
            settings.ignore_columns,
            difficulty,
        )

    def __iter__(self) -> Iterator[Example]:
        found = False
        seen = _Seen(self.columns)
        for record in self.records:
            try:
                if record.problem:
                    raise ValueError(record.problem)
                absent = seen.absent(record.fields)
                if absent:
                    raise ValueError(f"has no column {absent[0]}, which data.columns names")
                yield self._with_own(self._parse(record), record.fields)
                found = True
            except NoFormatError as error:
                seen.formless = seen.formless or (record.where, error)
                self.bad.add(record.where, error)
            except ValueError as error:
                self.bad.add(record.where, error)
        seen.check(self.name, self.format)
        self.bad.check()
        if not found:
            first = f"; the first: {self.bad.first[0]}" if self.bad.first else ""
            raise DataError(f"{self.name}: no row in it can be used{first}")

    def _with_own(self, example: Example, fields: Mapping[str, Any]) -> Example:
        """Adds what else is asked of a row to its example: its columns, under their own names and those of the format
        (turns that were the prompt are handed on as such), and its difficulty, by either name."""
        if not self.wanted.keeps_columns and self.difficulty is None:
            return example
        own = {**renamed(dict(fields), self.columns), **fields}
        difficulty = None if self.difficulty is None else _difficulty(own, self.difficulty)
        return replace(example, columns=own if self.wanted.keeps_columns else None, difficulty=difficulty)

    def _parse(self, record: Record) -> Example:
        own = record.fields
        if self.ignored:
            own = {name: value for name, value in own.items() if name not in self.ignored}
        side = side_of(self.columns, own, self.wanted)
        columns = {name: column for name, column in self.columns.items() if not side or name != "completion"}
        fields = renamed(own, columns)
        if record.typed:
            fields = without_absent(fields)
        if self.format is None:
            found = format_of(fields, PAIRS if side else self.wanted)
            if not side and found not in self.wanted.formats:
                hint = self.wanted.hints.get(found, "")
                raise DataError(
                    f"{record.where}: found {found.name} rows, this needs rows of {self.wanted.fields}{hint}"
                )
            self.format = found
        self._account(self.format, record, fields)
        if side:
            return parse_side(fields, side, as_chat=self.as_chat, where=record.where)
        return parse_example(self.format, fields, as_chat=self.as_chat, where=record.where)

    def _account(self, known: Format, record: Record, fields: Mapping[str, Any]) -> None:
        """Count what nothing reads. Raises DataError where what is learned would be another with it."""
        read = known.read
        if fields.keys() <= read and not any(name in fields for name in TURN_LISTS):
            return
        refused = refused_fields(fields, read | fields_of_formats(fields), text=known is TEXT)
        if refused:
            names = listed(refused)
            raise DataError(
                f"{record.where}: has {names}, without which other things would be learned, and which {known.name} "
                f"rows are not read with: name a column in data.columns, or leave it out by "
                f"data.ignore_columns=[{names}]"
            )
        asked = () if self.difficulty is None else (self.difficulty,)
        for name in unread_fields(fields, read.union(asked), (*self.columns.values(), *asked)):
            self.unread[name] = self.unread.get(name, 0) + 1


def _difficulty(fields: Mapping[str, Any], column: str) -> float:
    """The number in the column. ValueError says what is there instead."""
    value = column_of(fields, column)
    if value is MISSING:
        raise ValueError(f"has no column {column}, which data.curriculum.column names")
    return number_of(value, column)


@dataclass
class _Seen:
    """What the rows so far have of the columns that are named, and the first that is of no format."""

    columns: Mapping[str, str]
    rows: int = 0
    found: set[str] = field(default_factory=set)
    names: dict[str, None] = field(default_factory=dict)
    formless: tuple[str, NoFormatError] | None = None

    def absent(self, fields: Mapping[str, Any]) -> list[str]:
        """The columns that a row does not have."""
        self.rows += 1
        if not self.columns:
            return []
        absent = []
        for name, column in self.columns.items():
            if column_of(fields, column) is MISSING:
                absent.append(column)
            else:
                self.found.add(name)
        if absent and len(self.names) < MAX_NAMES:
            self.names |= dict.fromkeys(fields)
        return absent

    def check(self, source: str, found: Format | None) -> None:
        """DataError, one line, where no row has a column that is named, or none is of a format."""
        missing = [name for name in self.columns if name not in self.found]
        if missing and self.rows:
            raise DataError(no_such_column(self.columns, missing[0], source, list(self.names), self.rows))
        if self.formless is not None and found is None:
            where, error = self.formless
            raise DataError(no_format(where, error.names, self.rows, error.allowed))
