"""An append-only JSONL file: one row a line, written at once; a torn last line never survives an opening."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import StorageError


class MetricStore:
    """Rows of one file. Raises StorageError when the disk fails, or the file or its folder is gone: none is made anew,
    which would hold a part of the record in the place of the whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            _drop_torn_tail(path)
            # It is unbuffered: what could not be written must not fail a second time, untold, when the store is closed.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - held for the life of the store
        except OSError as error:
            raise _failed(path, error) from error

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row in one call. NaN and infinities become null: JSON has neither."""
        self.append_many([row])

    def append_many(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows in one call."""
        lines = [json.dumps({key: _plain(item) for key, item in row.items()}, ensure_ascii=False) for row in rows]
        try:
            data = "".join(f"{line}\n" for line in lines).encode()
            self._check_place()
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise _failed(self.path, error) from error

    def check(self) -> None:
        """Raises StorageError where the file that was opened is no longer in its place."""
        try:
            self._check_place()
        except OSError as error:
            raise _failed(self.path, error) from error

    def _check_place(self) -> None:
        if not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path)):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def sync(self) -> None:
        """Force what was written onto the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _failed(self.path, error) from error

    def truncate_after(self, step: int) -> None:
        """Cut the file before the first row whose step is beyond `step`. In place: other open handles stay good."""
        try:
            end = 0
            for line in self.path.read_bytes().splitlines(keepends=True):
                row = _row(line)
                if row is not None and row.get("step", 0) > step:
                    break
                end += len(line)
            os.truncate(self.path, end)
        except OSError as error:
            raise _failed(self.path, error) from error

    def close(self) -> None:
        self._file.close()


def _drop_torn_tail(path: Path) -> None:
    """Cut whatever follows the last whole line that parses."""
    if not path.is_file():  # absent, or a device, which has no end to look for
        return
    data = path.read_bytes()
    end = len(data)
    while end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        if data[end - 1 : end] == b"\n" and _row(data[start:end]) is not None:
            break
        end = start
    if end < len(data):
        os.truncate(path, end)


def has_row_ending_at(path: Path, end: int) -> bool:
    """Whether the file's first `end` bytes are there and end with a whole row."""
    if end == 0:
        return True
    try:
        data = path.read_bytes()[:end]
    except OSError:
        return False
    return len(data) == end and data[-1:] == b"\n" and _row(data[data.rfind(b"\n", 0, -1) + 1 :]) is not None


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _failed(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be written ({error.strerror or error}); free some space or choose RUNS=folder")
