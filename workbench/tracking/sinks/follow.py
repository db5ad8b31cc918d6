"""Trackers in processes of their own, so that training neither waits for them nor falls with them.

`python -m workbench.tracking.sinks.follow KIND RUN ...` follows run folders for one tracker until its standard input
says that training ended, or closes because its parent died.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.tracking.sinks.replay import KINDS, OpenSink, Replay, sink_class
from workbench.tracking.sinks.sink import RestartTracker, log_line

if TYPE_CHECKING:
    import psutil

POLL_SECONDS = 2.0
FINISH_SECONDS = 12.0
"""Trackers may hold up the end of a command: 15 s at most, and killing them takes up to two of it."""
_MODULE = "workbench.tracking.sinks.follow"
_NICENESS = 10
_PR_SET_PDEATHSIG = 1


def follow(
    runs: Iterable[Path],
    stop: Callable[[float], bool],
    kind: str,
    open_sink: OpenSink,
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Replay what the runs write into one tracker until training ends, and then what is left.

    stop: waits at most so many seconds and says whether training ended (threading.Event().wait does).
    """
    replays = [Replay(run, kind, open_sink) for run in runs]
    ended = False
    while not ended:
        ended = stop(poll_seconds)
        for replay in replays:
            replay.poll()
    for replay in replays:
        replay.close()


class Followers:
    """The trackers of a command, one process a kind: one that hangs holds up neither the others nor the end."""

    def __init__(self, kinds: Sequence[str] = tuple(KINDS), poll_seconds: float = POLL_SECONDS) -> None:
        self._kinds = kinds
        self._poll_seconds = poll_seconds
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._runs: list[Path] = []
        self._scratch: Path | None = None

    def start(self, runs: Iterable[Path]) -> None:
        """Follow these run folders, which need not exist yet; each run's `track` says which trackers it wants."""
        assert not self._processes, "started once"
        self._runs = [Path(run).resolve() for run in runs]
        if not self._runs:
            return
        # Trackers end without their exit handlers, so what they put aside is taken away here.
        environment = dict(os.environ)
        with contextlib.suppress(OSError):
            self._scratch = Path(tempfile.mkdtemp(prefix="workbench-"))
            environment["TMPDIR"] = str(self._scratch)
        root = str(Path(__file__).resolve().parents[3])
        environment["PYTHONPATH"] = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        for kind in self._kinds:
            command = [
                sys.executable,
                "-P",
                "-m",
                _MODULE,
                "start",
                kind,
                str(self._poll_seconds),
                *map(str, self._runs),
            ]
            try:
                # A new program rather than a fork: it inherits no locks, threads or open files of the parent.
                self._processes[kind] = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    env=environment,
                )
            except OSError as error:
                self._log(f"{kind} could not be started: {error}")

    def finish(self, timeout_seconds: float = FINISH_SECONDS) -> tuple[str, ...]:
        """Let the trackers write what is left, and kill them after the timeout. Returns the kinds that were killed."""
        try:
            return self._finish(time.monotonic() + timeout_seconds, timeout_seconds)
        finally:
            self._processes = {}
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)

    def _finish(self, deadline: float, timeout_seconds: float) -> tuple[str, ...]:
        for process in self._processes.values():
            assert process.stdin is not None, "opened as a pipe"
            with contextlib.suppress(OSError):
                process.stdin.write(b"finish\n")
                process.stdin.flush()
        killed = []
        for kind, process in self._processes.items():
            try:
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill(process)
                killed.append(kind)
                self._log(f"{kind} killed: it had not finished {timeout_seconds:g} s after training ended")
            else:
                if code:
                    self._log(f"{kind} ended with exit code {code}")
            assert process.stdin is not None, "opened as a pipe"
            with contextlib.suppress(OSError):
                process.stdin.close()
        return tuple(killed)

    def __enter__(self) -> Followers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.finish()

    def _log(self, text: str) -> None:
        for run in self._runs:
            if run.is_dir():
                log_line(run, text)


def replay(runs: Iterable[Path], timeout_seconds: float = 600.0) -> tuple[str, ...]:
    """Bring the trackers of runs that have ended up to date. Returns the kinds that did not finish in time."""
    followers = Followers()
    followers.start(runs)
    return followers.finish(timeout_seconds)


def main(arguments: Sequence[str]) -> None:
    """The tracker's process: "start" (or where a former one stood), a kind, its poll interval, the runs' folders."""
    stage, kind, poll_seconds, *runs = arguments
    _leave_the_foreground(yield_to_training=stage == "start")
    parent = _Parent(ended=stage == "drain")
    try:
        follow([Path(run) for run in runs], parent.ended_within, kind, sink_class(kind), float(poll_seconds))
    except RestartTracker:
        _end_children()
        stage = "drain" if parent.ended else "restart"
        os.execv(sys.executable, [sys.executable, "-P", "-m", _MODULE, stage, *arguments[1:]])
    except BaseException as error:
        for run in runs:
            if os.path.isdir(run):
                log_line(Path(run), f"{kind} stopped: {type(error).__name__}: {error}")
        _exit_now(1)
    _exit_now(0)


class _Parent:
    """The word of the parent, which comes on the standard input."""

    def __init__(self, ended: bool) -> None:
        self.ended = ended

    def ended_within(self, seconds: float) -> bool:
        """Wait for the word. When the parent died without one nothing is drained: the rest is replayed later."""
        if not self.ended and select.select([sys.stdin], [], [], seconds)[0]:
            if not sys.stdin.readline():
                _exit_now(0)
            self.ended = True
        return self.ended


def _exit_now(code: int) -> None:
    """End without exit handlers: a tracker's own may wait for a server, after all that was to be done is done."""
    _end_children()
    os._exit(code)


def _end_children() -> None:
    import psutil

    _kill_all(psutil.Process().children(recursive=True))


def _leave_the_foreground(yield_to_training: bool) -> None:
    """Yield to training, ignore Ctrl-C, and die with the parent even while a tracker hangs."""
    if yield_to_training:
        with contextlib.suppress(OSError):
            os.nice(_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import ctypes

        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a tracker and what it started, which may sit in sessions of its own."""
    import psutil

    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _kill_all(family)


def _kill_all(processes: list[psutil.Process]) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=1.0)


if __name__ == "__main__":
    main(sys.argv[1:])
