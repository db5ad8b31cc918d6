"""The hash of the workbench's code, whether it came from a commit, an uncommitted change or an installed package."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


def hash_of(package: Path) -> str:
    """Returns the hash of the names and contents of all Python files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package)} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


@functools.cache
def own_hash() -> str:
    """Returns the hash of this package as it stood when this process, or the one that it was forked from, first
    asked."""
    return hash_of(Path(__file__).parent)
