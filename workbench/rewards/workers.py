"""Slow rewards in processes beside this one, with a time limit for each completion.

The processes are forked from this one, in sessions of their own, and end with it: told so by the kernel, even where it
is killed. Whatever they started themselves is killed with them.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import DefinitionError, RewardError, WorkbenchError
from workbench.rewards.reward import RewardFunction, Sample, as_numbers, describe_failure, show

_FORK = multiprocessing.get_context("fork")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
Answer = tuple[float | None, str | None, str | None]
"""A value, or what is wrong in a message of ours, or how the function failed."""


@dataclass
class _Worker:
    process: Any
    pipe: Any
    index: int | None = None
    deadline: float = math.inf


class WorkerPool:
    """Called as a reward: pool(samples) -> values in the samples' order. The function gets one sample at a time."""

    def __init__(self, name: str, load: Callable[[], RewardFunction], workers: int, timeout_seconds: float | None):
        """load: called once in each process. WorkbenchError where it raises one there."""
        self.name, self._load, self._size, self._timeout = name, load, workers, timeout_seconds
        self._workers: list[_Worker] = []
        weakref.finalize(self, _kill, self._workers, os.getpid())
        self._start()

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """RewardError naming the sample, where the function fails, takes too long, or ends its process."""
        try:
            self._start()
            return self._score(samples)
        except BaseException:  # an interrupt among them: what is under way is never taken for the next call's
            self.close()
            raise

    def close(self) -> None:
        """End the processes; the next call starts new ones."""
        _kill(self._workers, os.getpid())

    def _start(self) -> None:
        if self._workers:
            return
        try:
            for _ in range(self._size):
                self._workers.append(self._fork())
            for worker in self._workers:
                try:
                    failure = worker.pipe.recv()
                except EOFError:
                    raise DefinitionError(f"reward {self.name}: its process ended while it was loaded") from None
                if failure is not None:
                    raise failure
        except BaseException:
            self.close()
            raise

    def _fork(self) -> _Worker:
        here, there = _FORK.Pipe()
        ends = [here, *(worker.pipe for worker in self._workers)]
        process = _FORK.Process(target=_serve, args=(self.name, self._load, there, ends, os.getpid()), daemon=True)
        with warnings.catch_warnings():
            # Of threads that a fork leaves behind: the process computes on one thread and takes no lock of theirs.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        there.close()
        return _Worker(process, here)

    def _score(self, samples: Sequence[Sample]) -> list[float]:
        values = [0.0] * len(samples)
        waiting = iter(range(len(samples)))
        for worker in self._workers:
            self._send_next(worker, waiting, samples)
        while busy := {worker.pipe: worker for worker in self._workers if worker.index is not None}:
            deadline = min(worker.deadline for worker in busy.values())
            left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            ready: list[Any] = multiprocessing.connection.wait(list(busy), left)
            for pipe in ready:
                worker = busy[pipe]
                assert worker.index is not None
                values[worker.index] = self._receive(worker, samples[worker.index])
                self._send_next(worker, waiting, samples)
            for worker in busy.values() if not ready else ():
                if worker.index is not None and worker.deadline <= time.monotonic():
                    raise RewardError(
                        f"reward {self.name}: it took longer than timeout_seconds ({self._timeout:g} s); "
                        f"{show(samples[worker.index])}"
                    )
        return values

    def _send_next(self, worker: _Worker, waiting: Any, samples: Sequence[Sample]) -> None:
        worker.index = next(waiting, None)
        if worker.index is not None:
            worker.deadline = math.inf if self._timeout is None else time.monotonic() + self._timeout
            # A process that died is found when its answer is read.
            with contextlib.suppress(BrokenPipeError):
                worker.pipe.send(samples[worker.index])

    def _receive(self, worker: _Worker, sample: Sample) -> float:
        try:
            answer: Answer = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            code = worker.process.exitcode
            end = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise RewardError(f"reward {self.name}: its process ended with {end}; {show(sample)}") from None
        value, problem, failure = answer
        if problem is not None:
            raise RewardError(problem)
        if value is None:
            raise RewardError(f"reward {self.name}: {failure}; {show(sample)}")
        return value


def _kill(workers: list[_Worker], owner: int) -> None:
    """End them and all that they started; nothing is asked of them. owner: a fork of it leaves them alone."""
    while workers and os.getpid() == owner:
        worker = workers.pop()
        if worker.process.is_alive():
            try:
                os.killpg(worker.process.pid, signal.SIGKILL)
            except ProcessLookupError:  # not yet in a session of its own
                worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def _serve(name: str, load: Callable[[], RewardFunction], pipe: Any, ends: list[Any], parent: int) -> None:
    for end in ends:  # the other side's: while one is open here, its reader would never see that it is gone
        end.close()
    _become_worker(parent)
    try:
        function = load()
    except WorkbenchError as error:
        pipe.send(error)
        return
    pipe.send(None)
    while True:
        try:
            sample = pipe.recv()
        except EOFError:
            return
        pipe.send(_answer(name, function, sample))


def _answer(name: str, function: RewardFunction, sample: Sample) -> Answer:
    try:
        return as_numbers(name, function([sample]), [sample])[0], None, None
    except WorkbenchError as error:
        return None, str(error), None
    except (Exception, SystemExit) as error:
        return None, None, describe_failure(error)


def _become_worker(parent: int) -> None:
    """A session of its own, so that Ctrl-C reaches it only through its parent; its end follows its parent's."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
    if os.getppid() != parent:
        os.killpg(0, signal.SIGKILL)
    if "torch" in sys.modules:
        # The thread pool does not survive a fork: a product on more than one thread would wait for it for ever.
        sys.modules["torch"].set_num_threads(1)
