"""An append-only JSONL file: one row a line, flushed as it is written; a torn last line never survives an opening."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.errors import StorageError


class MetricStore:
    """Rows of one file. StorageError when the disk fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_torn_tail(path)
            self._file = open(path, "ab")  # noqa: SIM115 - held for the life of the store
        except OSError as error:
            raise _failed(path, error) from error

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row in one call and flush it. NaN and infinities become null: JSON has neither."""
        line = json.dumps({key: _plain(value) for key, value in row.items()}, ensure_ascii=False) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
        except OSError as error:
            raise _failed(self.path, error) from error

    def sync(self) -> None:
        """Force what was written onto the disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _failed(self.path, error) from error

    def truncate_after(self, step: int) -> None:
        """Keep only the rows whose step is at most `step`, atomically."""
        self._file.close()
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line).get("step", 0) <= step]
            if len(kept) < len(lines):
                partial = self.path.with_name(self.path.name + ".partial")
                with open(partial, "wb") as file:
                    file.writelines(kept)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self.path)
            self._file = open(self.path, "ab")  # noqa: SIM115
        except OSError as error:
            raise _failed(self.path, error) from error

    def close(self) -> None:
        self._file.close()


def _drop_torn_tail(path: Path) -> None:
    """Cut whatever follows the last whole line that parses."""
    if not path.exists():
        return
    data = path.read_bytes()
    end = len(data)
    while end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        if data[end - 1 : end] == b"\n" and _is_row(data[start:end]):
            break
        end = start
    if end < len(data):
        os.truncate(path, end)


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _failed(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be written ({error.strerror or error}); free some space or choose RUNS=folder")
