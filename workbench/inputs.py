"""Files that a result is made of: what is read is what was identified, or whoever reads it is told which file is not.

An identity is taken of a file's contents, and the file is read by its path, by libraries that know of no identity. So
its signature is taken before it is hashed and compared after it was read: where both are equal, the contents that were
read are those that were hashed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from workbench.config import file_sha256
from workbench.errors import DataError, describe_error

REMEDY = "nothing is kept of it; the same command begins with what stands there now"


class Inputs:
    """The state of files when this is made, which must be before their contents are hashed. Of a folder among them the
    names that it holds count."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._seen = {path: _signature(path) for path in paths}

    @classmethod
    def verified(cls, hashes: Mapping[str, str]) -> Inputs:
        """Remembers the files by path, each with the contents that its hash says. Raises DataError, naming it, for one
        with other contents."""
        inputs = cls(map(Path, hashes))
        for path, digest in hashes.items():
            if contents_hash(Path(path)) != digest:
                raise DataError(f"{path} was changed after it was identified; {REMEDY}")
        return inputs

    def __or__(self, other: Inputs) -> Inputs:
        both = Inputs(())
        both._seen = other._seen | self._seen
        return both

    def hashes(self) -> dict[str, str]:
        """Returns the hash of each file's contents by its path, as `verified` wants them. Raises DataError where a file
        cannot be read."""
        return {str(path): contents_hash(path) for path in self._seen}

    def check(self) -> None:
        """Raises DataError, naming it, for a file that was changed, replaced or taken away since this was made."""
        for path, seen in self._seen.items():
            if _signature(path) != seen:
                what = "was changed or replaced" if os.path.lexists(path) else "was taken away"
                raise DataError(f"{path} {what} while it was in use; {REMEDY}")

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Checks after everything within, whatever came of it: what failed may have failed because a file changed."""
        try:
            yield
        except Exception:
            self.check()
            raise
        self.check()


def contents_hash(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, or of the names that a folder holds. Raises DataError where it cannot be
    read."""
    try:
        if path.is_dir():
            return hashlib.sha256("\n".join(sorted(os.listdir(path))).encode("utf-8", "surrogateescape")).hexdigest()
        return file_sha256(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} was taken away after it was identified; {REMEDY}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({describe_error(error)}); {REMEDY}") from error


def _signature(path: Path) -> tuple[object, ...] | None:
    """Returns what every change of a file changes too: the time of its last change, which cannot be set. A link counts
    together with its target."""
    try:
        link, goal = path.lstat(), path.stat()
        if path.is_dir():
            return (link.st_ino, goal.st_dev, goal.st_ino, *sorted(os.listdir(path)))
    except OSError:
        return None
    return link.st_ino, link.st_ctime_ns, goal.st_dev, goal.st_ino, goal.st_size, goal.st_mtime_ns, goal.st_ctime_ns
