"""Data files as records with their places: JSONL, JSON, Parquet and CSV by path. What cannot be read says so."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.decimals import read_float
from workbench.errors import DataError

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
MAX_CSV_FIELD = 1 << 30
"""Python's own limit of 131,072 characters is less than a long document."""
MAX_DIGITS = 4000
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file: its fields, or why it has none."""

    where: str
    """file:line; file:row N (from 1) where rows have no lines."""
    fields: dict[str, Any]
    problem: str = ""
    typed: bool = False
    """Whether its columns have a type each (Parquet, data sets): a null in one may then be a field of other rows."""


def read_records(path: Path) -> Iterator[Record]:
    """Every row of a data file in order. Raises DataError when the file itself cannot be read."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: found {suffix or 'no ending'}, allowed {', '.join(SUFFIXES)}")
    reader = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv}[suffix]
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({_first_line(error.strerror or error)})") from error


def shown(value: Any) -> str:
    """A value of the data in a message: one line, at most 60 characters, control characters written out."""
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 62 else f"{text[:59]}..."


def _jsonl(path: Path) -> Iterator[Record]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(_BOM) if number == 1 else line
            if line.strip():
                yield _from_json(line, f"{path}:{number}")


def _from_json(line: bytes, where: str) -> Record:
    try:
        value = _loads(line)
    except ValueError as error:
        return Record(where, {}, str(error))
    return _record(where, value)


def _json(path: Path) -> Iterator[Record]:
    try:
        values = _loads(path.read_bytes().removeprefix(_BOM))
    except ValueError as error:
        raise DataError(f"{path}: {error}; a file of one row a line ends in .jsonl") from error
    if not isinstance(values, list):
        raise DataError(f"{path}: found {type(values).__name__}, allowed a list of rows")
    for number, value in enumerate(values, start=1):
        yield _record(f"{path}:row {number}", value)


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise DataError(f"{path}: the column {shown(_repeated(names))} stands twice")
            number = 0
            for batch in file.iter_batches(1024):
                for record in _parquet_rows(batch):
                    number += 1
                    yield dataclasses.replace(record, where=f"{path}:row {number}")
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: is not Parquet ({_first_line(error)})") from error
    except UnicodeDecodeError as error:  # in the name of a column
        raise DataError(f"{path}: is not Parquet in UTF-8") from error


def _parquet_rows(rows: Any) -> Iterator[Record]:
    """Yields the records of a batch of rows, read at once, or each alone where one of them cannot be read. Their places
    are not known yet."""
    try:
        values = rows.to_pylist()
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    except (ValueError, OverflowError) as error:  # a time that Python has no value for
        problem = f"has a value that cannot be read ({_first_line(error)})"
    else:
        yield from (Record("", value, typed=True) for value in values)
        return
    if len(rows) == 1:
        yield Record("", {}, problem)
        return
    for index in range(len(rows)):
        yield from _parquet_rows(rows.slice(index, 1))


def _csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(MAX_CSV_FIELD)
    # Bytes that are not UTF-8 become half surrogates, so that they spoil their own row alone.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] = []
        while True:
            where = f"{path}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if not header:
                    raise DataError(f"{where}: is not CSV ({error})") from error
                yield Record(where, {}, f"is not CSV ({error})")
                continue
            if not header:
                header = cells
                if len(cells) == 1 and (found := re.search("[;\t|]", cells[0])):
                    raise DataError(f"{where}: columns are divided by {found[0]!r}, allowed commas: save it so")
                if len(set(header)) < len(header):
                    raise DataError(f"{where}: the column {shown(_repeated(header))} stands twice")
            elif cells:
                yield _csv_row(header, cells, where)


def _csv_row(header: list[str], cells: list[str], where: str) -> Record:
    if len(cells) != len(header):
        return Record(where, {}, f"has {len(cells)} columns, the header has {len(header)}")
    if any(_NOT_UTF8.search(cell) for cell in cells):
        return Record(where, {}, "is not UTF-8")
    return _record(where, dict(zip(header, cells, strict=True)))


def _record(where: str, value: Any) -> Record:
    if not isinstance(value, dict):
        return Record(where, {}, f"is {type(value).__name__}, allowed a row of named fields")
    return Record(where, value)


def _loads(data: bytes) -> Any:
    """The value of JSON text. ValueError says what is wrong with it."""
    try:
        return json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_constant=read_float,
            parse_float=read_float,
            parse_int=_whole,
        )
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("is not JSON (nested too deep)") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"is not JSON ({error.msg.removesuffix(' at')} at {line}column {error.colno})") from error
    except ValueError as error:
        raise ValueError(f"is not JSON ({_first_line(error)})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"the key {shown(_repeated([name for name, _ in pairs]))} stands twice")
    return fields


def _repeated(names: list[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _first_line(error: Any) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return "".join(character if character.isprintable() else "?" for character in line)
