"""Files that a user names, opened only where they are regular: a FIFO or a device in their place may never end."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from workbench.errors import WorkbenchError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_file(path: Path | str) -> BufferedReader:
    """Opens a file to be read as bytes. Raises WorkbenchError where it is not a regular one, and OSError where it
    cannot be opened."""
    check_file(path)  # opening a FIFO waits for its writer, and opening a device may act on it
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_mode(path, os.fstat(descriptor).st_mode)  # it may have been replaced in between
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_file(path: Path | str) -> None:
    """Raises WorkbenchError where something that is there is not a regular file, and OSError where nothing is there. It
    serves libraries that open a path themselves."""
    _check_mode(path, os.stat(path).st_mode)


def read_file(path: Path | str) -> bytes:
    """Returns all bytes of a file, opened as open_file opens it."""
    with open_file(path) as file:
        return file.read()


def _check_mode(path: Path | str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        found = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise WorkbenchError(f"{path}: found {found}, allowed a regular file")
