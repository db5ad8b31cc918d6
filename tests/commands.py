"""The real command, with all the processes that it starts, as any test runs it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
MODULE = (sys.executable, "-m", "workbench.cli")
ROOT = Path(__file__).parents[1]


def run(lab: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`workbench ...` in a folder, to its end."""
    return Command(lab, *arguments, errors_apart=True, **environment).completed()


class Command:
    """`workbench ...` in a lab, as it runs, in a session of its own: forked from this warm process, which spares it the
    seconds of imports, or a program of its own (`cold`)."""

    def __init__(
        self,
        lab: Path,
        *arguments: str,
        cold: bool = False,
        errors_apart: bool = False,
        program: Sequence[str] = MODULE,
        **environment: str,
    ) -> None:
        """errors_apart: what it says on standard error is kept from what it says on standard output."""
        if not cold:
            warm_up()
        _keep_orphans()
        self._arguments = arguments
        self._others = {process.pid for process in _descendants()}
        self._output = self._open()
        self._errors = self._open() if errors_apart else self._output
        self._started = time.monotonic()
        settings = {"WANDB_MODE": "offline"} | environment
        self._process: _Program | _Fork
        if cold:
            self._process = _Program(lab, [*program, *arguments], settings, self._output, self._errors)
        else:
            self._process = _Fork(lab, arguments, settings, self._output, self._errors)
        self.pid = self._process.pid

    def _open(self) -> int:
        """A file in memory, for as long as this object lives."""
        file = os.memfd_create("said")
        weakref.finalize(self, os.close, file)
        return file

    def processes(self) -> list[psutil.Process]:
        """Itself and all that it started, in whichever session, as far as they live."""
        found = []
        for process in _descendants():
            with contextlib.suppress(psutil.Error):
                if process.pid not in self._others and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def sleep_until(self, seconds: float) -> None:
        """Counted from its start, or to its end."""
        self._process.wait(max(0.0, seconds - (time.monotonic() - self._started)))

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.code() is None

    def send(self, number: int) -> None:
        """A signal, as others send it: Ctrl-C to all of the foreground, anything else to the command alone."""
        if self.is_running():
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGINT else os.kill)(self.pid, number)

    def kill_one(self, rng: random.Random) -> None:
        """One of the processes that it started, with SIGKILL: a run, a tracker, or what a tracker started."""
        others = [process for process in self.processes() if process.pid != self.pid]
        with contextlib.suppress(psutil.Error, IndexError):
            rng.choice(others).kill()

    def end(self, timeout: float = 120.0) -> tuple[int, str]:
        """Its code and all that it said."""
        self._process.wait(timeout)
        code = self._process.code()
        said = _read(self._output)
        assert code is not None, f"still running after {timeout:g} s: {said}"
        return code, said

    def completed(self, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """As subprocess.run would give it, at its end."""
        code, output = self.end(timeout)
        return subprocess.CompletedProcess(self._arguments, code, output, _read(self._errors))

    def orphans(self, seconds: float = 3.0) -> list[str]:
        """What still runs so long after its end."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [f"{process.pid}: {' '.join(process.cmdline())}" for process in left]


class _Program:
    """A new Python."""

    def __init__(self, lab: Path, command: Sequence[str], settings: dict[str, str], output: int, errors: int) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=lab,
            env=os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | settings,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def code(self) -> int | None:
        return self._process.poll()


class _Fork:
    """A fork of this process."""

    def __init__(self, lab: Path, arguments: Sequence[str], settings: dict[str, str], output: int, errors: int) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_be_the_command, args=(lab, arguments, settings, output, errors))
        self._process.start()
        self.pid = self._process.pid or 0

    def wait(self, seconds: float) -> None:
        self._process.join(seconds)

    def code(self) -> int | None:
        return self._process.exitcode


def _be_the_command(lab: Path, arguments: Sequence[str], settings: dict[str, str], output: int, errors: int) -> None:
    from workbench import cli

    os.setsid()
    for stream, file in ((1, output), (2, errors)):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    os.chdir(lab)
    os.environ |= {"NO_COLOR": "1"} | settings
    try:
        cli.entry(arguments)
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)


@functools.cache
def warm_up() -> None:
    """Load what a command loads, for all that are forked from here; fonts and forms of pictures by drawing one, and the
    templates of reports."""
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch
    import torch._dynamo
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    import analysis.report.pages
    import workbench.experiment.running.run
    import workbench.experiment.running.runner  # noqa: F401

    torch.set_num_threads(1)
    figure = Figure()
    FigureCanvasAgg(figure)
    figure.add_axes((0.1, 0.1, 0.8, 0.8)).plot([1, 2])
    for form in ("svg", "png"):
        figure.savefig(io.BytesIO(), format=form)
    analysis.report.pages.template("report.md.j2")
    analysis.report.pages.template("report.html.j2").environment.get_template("macros.html.j2")
    gc.freeze()


def _read(file: int) -> str:
    """All of it, while others write to it: their place in it is this process's too."""
    return os.pread(file, os.fstat(file).st_size, 0).decode()


def _keep_orphans() -> None:
    """Whatever loses its parent becomes a child of this process, and so is seen."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)
