"""One holder at a time, named; a dead holder's lock is free."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from workbench.errors import AlreadyRunningError, StorageError
from workbench.locks import hold, is_held

FORK = multiprocessing.get_context("fork")


def hold_forever(runs: Path, ready) -> None:
    with hold(runs, "a/b", inside=True):
        ready.set()
        time.sleep(60)


def holder(runs: Path):
    ready = FORK.Event()
    process = FORK.Process(target=hold_forever, args=(runs, ready))
    process.start()
    assert ready.wait(10)
    return process


@pytest.mark.alone
def test_a_held_lock_is_refused_at_once_and_names_its_holder(tmp_path):
    process = holder(tmp_path)
    try:
        started = time.monotonic()
        with (
            pytest.raises(AlreadyRunningError, match=f"a/b is already running: process {process.pid} on"),
            hold(tmp_path, "a/b"),
        ):
            pass
        assert time.monotonic() - started < 1
    finally:
        process.kill()
        process.join()


def test_a_former_holder_is_not_named_for_the_one_that_has_it(tmp_path):
    """Between taking the lock and saying so, the file speaks of whoever had it before."""
    former = holder(tmp_path)
    former.kill()
    former.join()
    with hold(tmp_path, "a/b"):
        path = tmp_path / ".locks/a~b.lock"
        mine = path.read_text()
        path.write_text(mine.replace(str(os.getpid()), str(former.pid)))
        later = threading.Timer(0.1, path.write_text, [mine])
        later.start()
        with pytest.raises(AlreadyRunningError, match=f"process {os.getpid()} on"), hold(tmp_path, "a/b"):
            pass
        later.join()


def test_a_killed_holder_leaves_the_lock_free(tmp_path):
    process = holder(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with hold(tmp_path, "a/b"):
        pass


def test_a_waiter_is_told_who_holds_it_and_goes_on_when_it_is_free(tmp_path):
    process = holder(tmp_path)
    told: list[str] = []

    def on_wait(who: str) -> None:
        told.append(who)
        process.kill()

    with hold(tmp_path, "a/b", on_wait=on_wait):
        assert told == [f"process {process.pid} on {os.uname().nodename}"]
    process.join()


def test_other_names_are_other_locks(tmp_path):
    with hold(tmp_path, "a/b"), hold(tmp_path, "a/c"):
        pass


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(StorageError, match="choose RUNS=folder"), hold(tmp_path / "runs", "a"):
        pass


def test_a_lock_holds_where_the_folder_of_locks_was_removed(tmp_path):
    process = holder(tmp_path)
    try:
        shutil.rmtree(tmp_path / ".locks")
        assert is_held(tmp_path, "a/b")
        with (
            pytest.raises(AlreadyRunningError, match=f"a/b is already running: process {process.pid} on"),
            hold(tmp_path, "a/b", inside=True),
        ):
            pass
    finally:
        process.kill()
        process.join()
    with hold(tmp_path, "a/b", inside=True):
        pass


def test_who_waited_for_a_folder_that_was_moved_away_locks_the_one_in_its_place(tmp_path):
    process = holder(tmp_path)

    def on_wait(_: str) -> None:
        (tmp_path / "a/b").rename(tmp_path / "a/c")
        shutil.rmtree(tmp_path / ".locks")
        process.kill()

    with hold(tmp_path, "a/b", on_wait=on_wait, inside=True):
        assert is_held(tmp_path, "a/b")
        with pytest.raises(AlreadyRunningError), hold(tmp_path, "a/b", inside=True):
            pass
    process.join()


def test_a_name_longer_than_a_file_s_is_a_lock_of_its_own(tmp_path):
    names = [f"{'x' * 250}/{'y' * 250}/seed{seed}" for seed in range(2)]
    with hold(tmp_path, names[0], inside=True):
        assert [is_held(tmp_path, name) for name in names] == [True, False]
        with hold(tmp_path, names[1], inside=True):
            pass
