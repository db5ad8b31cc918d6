"""Locks across processes: an experiment, a run, a stage or a tracker's files has one holder at a time, and a dead
holder's lock is free at once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from workbench.errors import AlreadyRunningError, StorageError, describe_error

FOLDER = ".locks"
INSIDE = ".lock"
"""The second lock of an experiment or a run, in its folder: it stays where .locks/ is removed, and moves with it."""
LONGEST_NAME = 200
"""How many bytes of a lock's name are kept; a longer name ends in its hash."""
POLL_SECONDS = 0.1
SECONDS_TO_SAY = 0.5


@contextlib.contextmanager
def hold(
    runs: Path,
    name: str,
    *,
    shared: bool = False,
    on_wait: Callable[[str], None] | None = None,
    inside: bool = False,
) -> Iterator[None]:
    """Hold the lock `name` of a runs folder, alone or with all others that share it.

    inside: the name is that of a folder below runs, which is made, and which holds a lock of its own.

    on_wait: None raises AlreadyRunningError when another process has it; else it is called once with who that is, and
    the lock is waited for."""
    with contextlib.ExitStack() as locks:
        for path in (_path(runs, name), *([runs / name / INSIDE] if inside else [])):
            locks.enter_context(hold_file(path, name, shared=shared, on_wait=on_wait))
        yield


def is_held(runs: Path, name: str, *, shared: bool = False) -> bool:
    """Says whether a process holds the lock for itself now. shared: or shares it with others."""
    kind = fcntl.LOCK_EX if shared else fcntl.LOCK_SH
    return _is_locked(_path(runs, name), kind) or _is_locked(runs / name / INSIDE, kind)


def _is_locked(path: Path, kind: int) -> bool:
    """Says whether a lock of that kind cannot be had now."""
    try:
        # It may be another user's; a folder on a network gives a lock for itself only to who may write.
        descriptor = os.open(path, os.O_RDWR if kind == fcntl.LOCK_EX else os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try(descriptor, kind)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def hold_file(
    path: Path, name: str, *, shared: bool = False, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Holds this file as a lock, as `hold` does; `name` is what messages call it."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    told, descriptor = False, _open(path)
    try:
        while not (_try(descriptor, kind) and _stands(descriptor, path)):
            if not _stands(descriptor, path):  # it was moved or removed meanwhile
                os.close(descriptor)
                descriptor = _open(path)
                continue
            if not told:
                holder, told = _holder(path), True
                if on_wait is None:
                    raise AlreadyRunningError(f"{name} is already running: {holder} holds it")
                on_wait(holder)
            time.sleep(POLL_SECONDS)
        with _making(path):
            text = json.dumps({"pid": os.getpid(), "host": os.uname().nodename}).encode()
            os.pwrite(descriptor, text, 0)
            os.ftruncate(descriptor, len(text))
        yield
    finally:
        os.close(descriptor)  # the kernel lets the lock go, as it does when a process dies


@contextlib.contextmanager
def _making(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be made ({describe_error(error)}); free some space or choose RUNS=folder"
        ) from error


def _open(path: Path) -> int:
    with _making(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _stands(descriptor: int, path: Path) -> bool:
    """Says whether the file that was opened is the one that the path names now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _path(runs: Path, name: str) -> Path:
    plain = name.replace("/", "~").encode()
    if len(plain) > LONGEST_NAME:
        plain = plain[: LONGEST_NAME - 17] + b"~" + hashlib.sha256(plain).hexdigest()[:16].encode()
    return runs / FOLDER / f"{plain.decode(errors='ignore')}.lock"


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    """Says who holds the lock. The file may still name a former holder, or none yet: the new one writes its name within
    milliseconds."""
    deadline = time.monotonic() + SECONDS_TO_SAY
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(path.read_text())
            pid, host = int(found["pid"]), str(found["host"])
            if host != os.uname().nodename or _is_alive(pid):
                return f"process {pid} on {host}"
        time.sleep(0.01)
    return "another process"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
