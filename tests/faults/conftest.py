"""Faults that are real: a process killed before the n-th thing that it does to a folder, and a disk of any size."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Command, warm_up
from tests.faults.labs import make_lab

WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


class Moments:
    """What this process does, in order: act is called before the number-th of it. It cannot be taken back: for a
    process of its own."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.seen: list[str] = []
        self._number, self._act = number, act

    def visit(self, name: str) -> None:
        """Here is one."""
        self.seen.append(name)
        if len(self.seen) == self._number:
            self._act()

    def before_writes(self, folder: Path) -> None:
        """From now on one before everything that is done to a folder: opening to write, fsync, rename, ... Its name
        is the deed and the path within the folder."""

        def happens(deed: str, where: str) -> None:
            if where.startswith(str(folder)):
                self.visit(f"{deed} {os.path.relpath(where, folder)}")

        def audit(event: str, arguments: tuple) -> None:
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (event in WRITES or writes) and isinstance(arguments[0], str | os.PathLike):
                happens(event.removeprefix("os.").removeprefix("shutil."), os.fspath(arguments[0]))

        sync = os.fsync

        def counted_sync(descriptor: int) -> None:
            happens("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            sync(descriptor)

        os.fsync = counted_sync
        sys.addaudithook(audit)


def at_write(folder: Path, number: int, act: Callable[[], None]) -> Callable[[], int]:
    """From now on count what this process does to a folder, and act before the number-th; the count so far."""
    moments = Moments(number, act)
    moments.before_writes(folder)
    return lambda: len(moments.seen)


def kill() -> None:
    """This process, as power failing would."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A folder with the experiments of labs.py."""
    return make_lab(tmp_path / "lab")


@pytest.fixture
def started(once: Callable[..., Path], tmp_path: Path) -> Path:
    """A lab whose start is trained."""

    def make(folder: Path) -> Path:
        code, output = Command(make_lab(folder / "lab"), "run", "start").end()
        assert code == 0, output
        return folder / "lab"

    return shutil.copytree(once("started", make), tmp_path / "lab")


@pytest.fixture
def call(lab: Path, in_processes: Callable[..., list[Any]]) -> Callable[..., tuple[int, str]]:
    """call("run", "start", before=change) -> code and words of the command in the lab, in a process forked from this
    warm one; before it, change() may change the code there."""
    from workbench import cli

    warm_up()

    def in_child(arguments: tuple[str, ...], before: Callable[[], object]) -> tuple[int, str]:
        before()
        os.chdir(lab)
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return cli.main(list(arguments)), said.getvalue()

    def run(*arguments: str, before: Callable[[], object] = lambda: None) -> tuple[int, str]:
        return in_processes(1, lambda _: in_child(arguments, before))[0]

    return run


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
