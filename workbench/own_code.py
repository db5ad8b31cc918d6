"""The code that runs: the workbench's own, whether from a commit, an uncommitted change or an installed package, and
methods outside it, where whoever runs it names their folder."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

TRAINERS_VARIABLE = "WORKBENCH_TRAINERS"


def own_trainers() -> Path | None:
    """The folder of methods outside the workbench. Whoever runs a command names it, never a definition: its files are
    run with that person's rights."""
    named = os.environ.get(TRAINERS_VARIABLE)
    return Path(named).expanduser().absolute() if named else None


def hash_of(*folders: Path) -> str:
    """Returns the hash of the names and contents of all Python files below the folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


@functools.cache
def own_hash() -> str:
    """Returns the hash of the code as it stood when this process, or the one that it was forked from, first asked."""
    outside = own_trainers()
    return hash_of(Path(__file__).parent, *([outside] if outside is not None else []))
