"""Faults that are real: a process killed before the n-th thing that it does to a folder, and a disk of any size."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contracts.conftest import make_trainer  # noqa: F401 - a fixture

WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


def at_write(folder: Path, number: int, act: Callable[[], None]) -> Callable[[], int]:
    """From now on count what this process does to a folder (opening to write, fsync, rename, ...), and act before the
    number-th; the count so far. It cannot be taken back: for a process of its own."""
    count = 0

    def happens(where: str) -> None:
        nonlocal count
        if where.startswith(str(folder)):
            count += 1
            if count == number:
                act()

    def audit(event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in WRITES or writes) and isinstance(arguments[0], str | os.PathLike):
            happens(os.fspath(arguments[0]))

    sync = os.fsync

    def counted_sync(descriptor: int) -> None:
        happens(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    os.fsync = counted_sync
    sys.addaudithook(audit)
    return lambda: count


def kill() -> None:
    """This process, as power failing would."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """make(kilobytes) -> a folder that is a disk of that size. Skips where none can be mounted."""
    mounted: list[Path] = []

    def make(kilobytes: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
