"""Requests that runs stop. One is a file that the run's own process looks for, so it reaches a run on any machine that
shares the folder; the run then writes a checkpoint, as after a signal, and is marked as stopped by the user."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from workbench.disk import make_folder, writing
from workbench.errors import DefinitionError
from workbench.experiment.definition.source import show
from workbench.experiment.running.run_folder import PAUSED, RunFolder
from workbench.locks import is_held
from workbench.tracking.reader import read_sealed

STOPS = ".stops"
WHOLE = ".whole"
"""The request, among those of an experiment's runs, that all of it stops."""
LOOK_SECONDS = 1.0
WAIT_SECONDS = 60.0
"""How long `workbench stop` waits for checkpoints to be written."""
STOPPED = "stopped"
SAYS = "stopped by the user; the same command goes on"


def is_asked(runs: Path, name: str) -> bool:
    """Whether the run, or the experiment, of that name is asked to stop; a run is where its experiment is."""
    return any(os.path.exists(_path(runs, each)) for each in (name, name.split("/")[0]))


def forget(runs: Path, *names: str) -> None:
    """The runs, or all runs of the experiments, of these names are no longer asked to stop."""
    for name in names:
        if "/" not in name:
            shutil.rmtree(runs / STOPS / name, ignore_errors=True)
            continue
        with contextlib.suppress(OSError):
            _path(runs, name).unlink()


def answered(runs: Path, key: str) -> None:
    """The run has stopped. Where commands are at its experiment the request stays until the last of them ends, so that
    none trains the run on."""
    experiment = key.split("/")[0]
    if not is_held(runs, experiment, shared=True):
        forget(runs, key)
        with contextlib.suppress(OSError):  # left by a command that was killed
            _path(runs, experiment).unlink()


@contextlib.contextmanager
def heard(runs: Path, experiment: str) -> Iterator[None]:
    """Within, a command is at the experiment; the last of them leaves no request that would stop what comes later."""
    try:
        yield
    finally:
        if not is_held(runs, experiment, shared=True):
            forget(runs, experiment)


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
    until they have. Returns those that were asked, of a search between two trials its own name, and those that still
    run. Raises DefinitionError where none runs."""
    experiment, *rest = named.rstrip("/").split("/")
    plan = read_sealed(runs / experiment / "plan.json") if experiment not in ("", ".", "..") else None
    own = [run["folder"] for run in (plan or {}).get("runs", ())]
    keys = [key for key in own if f"{key}/".startswith(f"{named.rstrip('/')}/")]
    if not keys:
        allowed = "EXPERIMENT, or EXPERIMENT/VARIANT of one" if not own else f"{experiment}, or one of its variants"
        raise DefinitionError(f"command line: NAME: found {show(named)}, allowed {allowed} that was run in {runs}")
    begun_first = [] if rest else [run["folder"] for run in (plan or {}).get("starts", ())]
    running = [key for key in (*begun_first, *keys) if is_held(runs, key)]
    is_at_work = is_held(runs, experiment, shared=True)
    waiting = [key for key in keys if is_at_work and _may_begin(RunFolder(runs, key))]
    asked = list(dict.fromkeys([*running, *waiting]))
    whole = [experiment] if is_at_work and not rest else []
    if not asked and not whole:
        raise DefinitionError(f"command line: NAME: found {show(named)}, of which nothing is running")
    for name in (*asked, *whole):
        path = _path(runs, name)
        make_folder(path.parent)
        with writing(path):
            path.touch()
    deadline = time.monotonic() + WAIT_SECONDS
    while (left := [key for key in running if is_held(runs, key)]) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS / 4)
    return asked or whole, left


def _may_begin(folder: RunFolder) -> bool:
    """Whether a command at the experiment may begin the run; one that waits for its search to judge it does not."""
    return not folder.is_finished() and folder.status().get("state") != PAUSED


def _path(runs: Path, name: str) -> Path:
    return runs / STOPS / name if "/" in name else runs / STOPS / name / WHOLE
