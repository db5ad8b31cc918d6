"""One holder at a time of an experiment, a run or a stage, across processes; a dead holder's lock is free at once."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from workbench.disk import writing
from workbench.errors import AlreadyRunningError, StorageError

FOLDER = ".locks"
POLL_SECONDS = 0.1


@contextlib.contextmanager
def hold(runs: Path, name: str, *, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock `name` of a runs folder. on_wait: None raises AlreadyRunningError when another process has it;
    else it is called once with who that is, and the lock is waited for."""
    path = runs / FOLDER / f"{name.replace('/', '~')}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be made ({error.strerror}); free some space or choose RUNS=folder"
        ) from error
    try:
        if not _try(descriptor):
            holder = _holder(path)
            if on_wait is None:
                raise AlreadyRunningError(f"{name} is already running: {holder} holds it")
            on_wait(holder)
            while not _try(descriptor):
                time.sleep(POLL_SECONDS)
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": os.uname().nodename}).encode(), 0)
        yield
    finally:
        os.close(descriptor)  # the kernel lets the lock go, as it does when a process dies


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text())
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
