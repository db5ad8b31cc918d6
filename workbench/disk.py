"""A disk that fails, told in one way, whichever library wrote to it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import StorageError, describe_error

_RUST = re.compile(r"\(os error (\d+)\)")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises StorageError, naming `path`, for an OSError within; all other errors pass as they are."""
    try:
        yield
    except Exception as error:  # safetensors and tokenizers tell of the disk in the words of other exceptions
        number = _RUST.search(str(error))
        if not isinstance(error, OSError) and number is None:
            raise
        told = os.strerror(int(number[1])) if number is not None else describe_error(error)
        raise StorageError(f"{path}: cannot be written ({told}); free some space or choose RUNS=folder") from error


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to be filled, which then takes the place of `folder`, whole or not at all. Raises StorageError."""
    partial = folder.with_name(folder.name + ".partial")
    try:
        with writing(folder):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    except StorageError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sync(path: Path) -> None:
    """Waits until what was written to a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where they do not exist. Raises StorageError when they cannot be made."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
