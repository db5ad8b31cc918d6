"""Parquet copies of a run's JSONL files: quick to load, checked against what they copy, never the record themselves.

<name>.parquet lies beside <name>.jsonl and holds, in its metadata, the version of this format and the sha256 of the
bytes that it was made from. A copy that does not match (older, torn, absent, of another version) counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.tracking.reader import Row, read_held_out, read_rows

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
TABLES = ("metrics", "completions", "pairs", "losses")
"""The files of a run that have copies; of its completions those of held-out prompts alone."""
_MARK = b"workbench"
_INT64 = 2**63


def read_table(run: Path, name: str, *, keep_copy: bool) -> pa.Table | None:
    """That table of a run (one of TABLES), from its copy where it is good, else from the JSONL; None without rows.

    keep_copy: write the copy that is missing, where the folder can be written; for runs that have ended.
    """
    source = run / f"{name}.jsonl"
    try:
        digest = _digest(source)
    except OSError:
        return None
    copy = source.with_suffix(".parquet")
    table = _read_copy(copy, digest)
    if table is None:
        rows = read_held_out(source) if name == "completions" else read_rows(source)
        table = to_table(rows, numeric=name == "metrics")
        # Read again: what is written as a copy of some bytes must have been made from them.
        if keep_copy and _digest(source) == digest:
            _write_copy(table, copy, digest)
    return table if table.num_rows else None


def to_table(rows: Iterable[Mapping[str, Any]], *, numeric: bool = False) -> pa.Table:
    """Rows as columns, in the order that they are first met; absent and null are null.

    numeric: every column but step is float64, and what is no number is null. Else the narrowest of bool, int64, float64
    and string that holds a column, text in JSON for anything else; a mapping's entries are columns of their own,
    <column>/<key>.
    """
    import pyarrow as pa

    flat = [_flat(row) for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    columns = {_as_name(name): [row.get(name) for row in flat] for name in names}
    if numeric:
        arrays = {name: _step(values) if name == "step" else _numbers(values) for name, values in columns.items()}
    else:
        arrays = {name: _narrowest(values) for name, values in columns.items()}
    return pa.table(arrays)


def _as_name(name: str) -> str:
    """Half a surrogate pair is legal in JSON and no text: such a name stands as JSON writes it."""
    return name if name.isascii() or name.encode(errors="ignore").decode() == name else json.dumps(name)


def _flat(row: Mapping[str, Any]) -> Row:
    if not any(isinstance(value, dict) for value in row.values()):
        return dict(row)
    found: Row = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= {f"{name}/{key}": entry for key, entry in value.items()}
        else:
            found[name] = value
    return found


def _step(values: list[Any]) -> pa.Array:
    import pyarrow as pa

    if all(isinstance(value, int) and abs(value) < _INT64 for value in values):
        return pa.array(values, pa.int64())
    return _numbers(values)


def _numbers(values: list[Any]) -> pa.Array:
    import pyarrow as pa

    return pa.array([_number(value) for value in values], pa.float64())


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return None if math.isnan(number) else number


def _narrowest(values: list[Any]) -> pa.Array:
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(value is None or -_INT64 <= value < _INT64 for value in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float, bool}:
        return _numbers(values)
    if kinds == {str}:
        with contextlib.suppress(UnicodeEncodeError):  # half a surrogate pair: legal in JSON, no text
            return pa.array(values, pa.string())
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode()


def _read_copy(copy: Path, digest: bytes) -> pa.Table | None:
    """The copy, if it is one of a file with this digest, made by this version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(copy, page_checksum_verification=True) as file:
            metadata = file.schema_arrow.metadata or {}
            if not metadata.get(_MARK, b"").startswith(b"%d %s " % (VERSION, digest)):
                return None
            table = file.read(use_threads=False)
            return table.replace_schema_metadata(None) if metadata[_MARK] == _mark(digest, table) else None
    except (OSError, pa.ArrowException, ValueError):
        return None


def _write_copy(table: pa.Table, copy: Path, digest: bytes) -> None:
    """Writes the copy in one move, or not at all. A run does not fail for a copy."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    partial = copy.with_name(f"{copy.name}.{os.getpid()}.partial")
    try:
        # What a killed process left; one that still writes then keeps no copy, and this one's serves both.
        for left in copy.parent.glob(f"{copy.name}.*.partial"):
            left.unlink(missing_ok=True)
        # Checksums of pages, so that a bit that flips on the disk is found and not read as a number.
        marked = table.replace_schema_metadata({_MARK: _mark(digest, table)})
        pq.write_table(marked, partial, compression="zstd", write_page_checksum=True)
        partial.replace(copy)
    except (OSError, pa.ArrowException):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _mark(digest: bytes, table: pa.Table) -> bytes:
    """Version, what was copied, and the shape of the copy: pages bear checksums, the file's footer does not."""
    names = json.dumps([table.num_rows, *((field.name, str(field.type)) for field in table.schema)])
    return b"%d %s %s" % (VERSION, digest, hashlib.sha256(names.encode()).hexdigest()[:16].encode())
