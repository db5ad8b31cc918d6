"""Requests that runs stop. One is a file that the run's own process looks for, so it reaches a run on any machine that
shares the folder; the run then writes a checkpoint, as after a signal, and is marked as stopped by the user."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from workbench.disk import make_folder, writing
from workbench.errors import DefinitionError
from workbench.experiment.definition.source import show
from workbench.experiment.running.run_folder import RunFolder
from workbench.locks import is_held
from workbench.tracking.reader import read_sealed

STOPS = ".stops"
LOOK_SECONDS = 1.0
WAIT_SECONDS = 60.0
"""How long `workbench stop` waits for checkpoints to be written."""
STOPPED = "stopped"
SAYS = "stopped by the user; the same command goes on"


def is_asked(runs: Path, key: str) -> bool:
    """Whether the run is asked to stop."""
    return os.path.exists(_path(runs, key))


def forget(runs: Path, keys: Iterable[str]) -> None:
    """The runs are no longer asked to stop: they did, or are to go on."""
    if (runs / STOPS).is_dir():
        for key in keys:
            with contextlib.suppress(OSError):
                _path(runs, key).unlink()


@contextlib.contextmanager
def heeded(runs: Path, key: str) -> Iterator[None]:
    """Within, a request to stop comes to this process as SIGTERM, once."""
    left = threading.Event()

    def look() -> None:
        while not left.wait(LOOK_SECONDS):
            if is_asked(runs, key):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=look, name="stops", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()


def stop(runs: Path, named: str) -> tuple[list[str], list[str]]:
    """`workbench stop`: ask the runs of EXPERIMENT, or of EXPERIMENT/VARIANT or one more seed of it, to stop, and wait
    until they have. Returns those that were asked and those that still run. Raises DefinitionError where none runs."""
    experiment, *rest = named.rstrip("/").split("/")
    plan = read_sealed(runs / experiment / "plan.json") if experiment not in ("", ".", "..") else None
    own = [run["folder"] for run in (plan or {}).get("runs", ())]
    keys = [key for key in own if f"{key}/".startswith(f"{named.rstrip('/')}/")]
    if not keys:
        allowed = "EXPERIMENT, or EXPERIMENT/VARIANT of one" if not own else f"{experiment}, or one of its variants"
        raise DefinitionError(f"command line: NAME: found {show(named)}, allowed {allowed} that was run in {runs}")
    begun_first = [] if rest else [run["folder"] for run in (plan or {}).get("starts", ())]
    running = [key for key in (*begun_first, *keys) if is_held(runs, key)]
    if not running and not is_held(runs, experiment):
        raise DefinitionError(f"command line: NAME: found {show(named)}, of which nothing is running")
    asked = [*dict.fromkeys([*running, *(key for key in keys if not RunFolder(runs, key).is_finished())])]
    for key in asked:
        path = _path(runs, key)
        make_folder(path.parent)
        with writing(path):
            path.touch()
    deadline = time.monotonic() + WAIT_SECONDS
    while (left := [key for key in running if is_held(runs, key)]) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS / 4)
    return asked, left


def _path(runs: Path, key: str) -> Path:
    return runs / STOPS / key
