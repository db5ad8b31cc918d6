"""A pytest plugin: which tests come first, and which have the machine for themselves."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

Test = TypeVar("Test")
ROOM = pytest.StashKey[contextlib.ExitStack]()
"""What a worker holds while it runs a test, or several that run alone."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Tests marked `alone` and `long` come first."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = in_order(items, [_mark(item) for item in items], workers)


def in_order(tests: Sequence[Test], marks: Sequence[str], workers: int) -> list[Test]:
    """The tests as xdist hands them out: as many to each worker, one share behind the other. Each share begins with as
    many long ones, so that no worker is left with one at the end. Those that run alone begin the first, one behind the
    other: the other workers wait once."""
    found = {mark: [test for test, own in zip(tests, marks, strict=True) if own == mark] for mark in set(marks)}
    long, short = found.get("long", []), found.get("", [])
    ordered: list[Test] = []
    for worker in range(workers):
        share = [*(found.get("alone", []) if worker == 0 else []), *long[worker::workers]]
        size = (len(tests) - len(ordered)) // (workers - worker)
        fill = max(0, size - len(share))
        ordered += share + short[:fill]
        short = short[fill:]
    return ordered + short


def _mark(item: pytest.Item | None) -> str:
    return next((mark for mark in ("alone", "long") if item and item.get_closest_marker(mark)), "")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """A test marked `alone` waits for the tests of other workers (pytest -n) to end, and they for it and for those that
    run alone behind it."""
    stash = item.session.stash
    if ROOM not in stash:
        stash[ROOM] = contextlib.ExitStack()
        stash[ROOM].enter_context(_room(alone=_mark(item) == "alone"))
    try:
        return (yield)
    finally:
        if not _mark(item) == _mark(nextitem) == "alone":
            stash[ROOM].close()
            del stash[ROOM]


@contextlib.contextmanager
def _room(alone: bool) -> Iterator[None]:
    """Nobody else's while alone, else shared. Whoever waits holds the door, so that those who share cannot pass it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        yield
        return
    folder = Path(tempfile.gettempdir())
    with open(folder / f"workbench-door-{run}", "w") as door, open(folder / f"workbench-room-{run}", "w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            # Not by closing: a process that the test left behind has these files open too.
            fcntl.flock(room, fcntl.LOCK_UN)
