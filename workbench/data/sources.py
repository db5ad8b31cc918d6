"""Data files as records with their places: JSONL, JSON, Parquet and CSV by path. What cannot be read says so."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from workbench.errors import DataError

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file: its fields, or why it has none."""

    where: str
    """file:line; file:row N (from 1) where rows have no lines."""
    fields: dict[str, Any]
    problem: str = ""


def read_records(path: Path) -> Iterator[Record]:
    """Every row of a data file in order. DataError when the file itself cannot be read."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: found {suffix or 'no ending'}, allowed {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    reader = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv}[suffix]
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _jsonl(path: Path) -> Iterator[Record]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _from_json(line, f"{path}:{number}")


def _from_json(line: bytes, where: str) -> Record:
    try:
        value = _loads(line.decode())
    except UnicodeDecodeError:
        return Record(where, {}, "is not UTF-8")
    except (ValueError, RecursionError) as error:
        return Record(where, {}, f"is not JSON ({error})")
    return _record(where, value)


def _json(path: Path) -> Iterator[Record]:
    try:
        values = _loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}); a file of one row a line ends in .jsonl") from error
    if not isinstance(values, list):
        raise DataError(f"{path}: found {type(values).__name__}, allowed a list of rows")
    for number, value in enumerate(values, start=1):
        yield _record(f"{path}:row {number}", value)


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(1024)
        number = 0
        for batch in batches:
            for value in batch.to_pylist():
                number += 1
                yield _record(f"{path}:row {number}", value)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: is not Parquet ({str(error).splitlines()[0]})") from error


def _csv(path: Path) -> Iterator[Record]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for value in reader:
                where = f"{path}:{reader.line_num}"
                if None in value or None in value.values():
                    yield Record(where, {}, f"has another number of columns than the header's {len(value)}")
                else:
                    yield _record(where, value)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}:{reader.line_num + 1}: is not CSV in UTF-8 ({error})") from error


def _record(where: str, value: Any) -> Record:
    if not isinstance(value, dict):
        return Record(where, {}, f"is {type(value).__name__}, allowed a row of named fields")
    return Record(where, value)


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
