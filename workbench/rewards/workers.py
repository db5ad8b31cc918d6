"""Rewards in processes of their own, so that nothing they do reaches the trainer, with a time limit where one is asked.

A keeper is forked from this process, and the workers from the keeper. It ends with this process, told so by the kernel
even where this one is killed, and ends all that the workers started: what they leave behind becomes its child. Of this
process's descriptors they have the standard ones alone; no lock stays held by them.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import DefinitionError, RewardError
from workbench.rewards import keeper
from workbench.rewards.reward import Judged, RewardFunction, Sample, show

Pipe = multiprocessing.connection.Connection
CLOSE_SECONDS = 10.0


@dataclass
class _Worker:
    pipe: Pipe
    task: list[int] | None = None
    """The samples that the worker is at."""
    deadline: float = math.inf


@dataclass
class _Processes:
    """The keeper, and the ends that reach it and its workers."""

    pid: int = 0
    control: Pipe | None = None
    workers: list[_Worker] = field(default_factory=list)


class WorkerPool:
    """Called as a reward: pool(samples) -> values in the samples' order, as Judged where something was logged."""

    def __init__(
        self,
        name: str,
        load: Callable[[], RewardFunction],
        workers: int,
        timeout_seconds: float | None,
        *,
        one_at_a_time: bool = True,
        lost: float | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        """load: called once in each process; WorkbenchError where it raises one there. one_at_a_time: the function
        gets single samples, else all of them in one call. lost: the value of a sample that takes too long or ends its
        process; None: that is an error. memory_bytes: what a process may take more than this one has."""
        assert one_at_a_time or workers == 1, "all samples are one call's"
        self.name, self._load, self._size, self._timeout = name, load, workers, timeout_seconds
        self._one, self._lost, self._memory = one_at_a_time, lost, memory_bytes
        self._processes = _Processes()
        weakref.finalize(self, _kill, self._processes, os.getpid())
        self._start()

    def __call__(self, samples: Sequence[Sample]) -> Judged | list[float | None]:
        """RewardError naming the sample, where the function fails, takes too long, or ends its process."""
        if not samples:
            return []
        try:
            self._start()
            found = self._score(samples)
            return found if found.metrics or found.extra else found.values
        except BaseException:  # an interrupt among them: what is under way is never taken for the next call's
            self.close()
            raise

    def close(self) -> None:
        """End the processes; the next call starts new ones."""
        _kill(self._processes, os.getpid())

    def _start(self) -> None:
        if self._processes.pid:
            return
        try:
            self._fork()
            for worker in self._processes.workers:
                failure = self._receive(worker)
                if failure is None:
                    raise DefinitionError(f"reward {self.name}: its process ended while it was loaded")
                if failure[0] is not None:
                    raise failure[0]
        except BaseException:
            self.close()
            raise

    def _fork(self) -> None:
        pipes = [multiprocessing.Pipe() for _ in range(self._size)]
        control, controlled = multiprocessing.Pipe()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # closed or none: what is printed is theirs to lose
                stream.flush()
        parent = os.getpid()
        serve = keeper.Service(self.name, self._load, self._memory)
        pid = keeper.fork()
        if pid == 0:
            keeper.keep(serve, [there for _, there in pipes], controlled, parent)
        self._processes.pid, self._processes.control = pid, control
        self._processes.workers += [_Worker(here) for here, _ in pipes]
        for end in (controlled, *(there for _, there in pipes)):
            end.close()

    def _score(self, samples: Sequence[Sample]) -> Judged:
        tasks = [[index] for index in range(len(samples))] if self._one else [list(range(len(samples)))]
        found = Judged([0.0] * len(samples))
        waiting = iter(tasks)
        for worker in self._processes.workers:
            self._send_next(worker, waiting, samples)
        while busy := [worker for worker in self._processes.workers if worker.task is not None]:
            ready = self._ready(busy)
            for worker in ready:
                self._take(worker, samples, found)
                self._send_next(worker, waiting, samples)
            late = [] if ready else [worker for worker in busy if worker.deadline <= time.monotonic()]
            for worker in late:
                assert worker.task is not None
                shown = show(samples[worker.task[0]])
                message = f"it took longer than timeout_seconds ({self._timeout:g} s)"
                self._lose(worker, found, f"reward {self.name}: {message}; {shown}")
                self._send_next(self._processes.workers[0], waiting, samples)
                break
        return found

    def _ready(self, busy: list[_Worker]) -> list[_Worker]:
        """The workers that have answered, or ended."""
        deadline = min(worker.deadline for worker in busy)
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        assert self._processes.control is not None
        ready: list[Any] = multiprocessing.connection.wait(
            [self._processes.control, *(worker.pipe for worker in busy)], left
        )
        answered = [worker for worker in busy if worker.pipe in ready]
        return answered or (busy[:1] if ready else [])

    def _send_next(self, worker: _Worker, waiting: Any, samples: Sequence[Sample]) -> None:
        worker.task = next(waiting, None)
        if worker.task is not None:
            worker.deadline = math.inf if self._timeout is None else time.monotonic() + self._timeout
            # A process that died is found when its answer is read.
            with contextlib.suppress(OSError):
                worker.pipe.send((worker.task[0], [samples[index] for index in worker.task]))

    def _take(self, worker: _Worker, samples: Sequence[Sample], found: Judged) -> None:
        assert worker.task is not None
        answer = self._receive(worker)
        if answer is None:
            shown = show(samples[worker.task[0]])
            self._lose(worker, found, f"reward {self.name}: its process ended with {self._end(worker)}; {shown}")
            return
        judged, problem = answer
        if problem is not None:
            raise RewardError(problem)
        for index, value in zip(worker.task, judged.values, strict=True):
            found.values[index] = value
        for name, values in judged.metrics.items():
            found.metrics[name] = found.metrics.get(name, []) + values
        for name, values in judged.extra.items():
            column = found.extra.setdefault(name, [None] * len(samples))
            for index, value in zip(worker.task, values, strict=True):
                column[index] = value

    def _lose(self, worker: _Worker, found: Judged, problem: str) -> None:
        """The sample has the value of lost ones, and new processes go on. Raises RewardError where there is no such
        value."""
        if self._lost is None:
            raise RewardError(problem)
        assert worker.task is not None and self._size == 1, "no other sample is under way"  # noqa: PT018
        for index in worker.task:
            found.values[index] = self._lost
        self.close()
        self._start()

    def _receive(self, worker: _Worker) -> Any:
        """What it says; None where it has ended, which the keeper tells."""
        assert self._processes.control is not None
        try:
            ready: list[Any] = multiprocessing.connection.wait([self._processes.control, worker.pipe])
            if worker.pipe in ready:
                return worker.pipe.recv()
        except (EOFError, OSError):
            pass
        return None

    def _end(self, worker: _Worker) -> str:
        """How the worker ended, or the first of them that did."""
        assert self._processes.control is not None
        ended: dict[int, int] = {}
        with contextlib.suppress(EOFError, OSError):
            while self._processes.control.poll(0.0 if ended else 5.0):
                index, code = self._processes.control.recv()
                ended[index] = code
        index = self._processes.workers.index(worker)
        code = ended.get(index, next(iter(ended.values()), None))
        if code is None:
            return "closed pipes"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _kill(processes: _Processes, owner: int) -> None:
    """End them and all that they started; nothing is asked of them. owner: a fork of it leaves them alone."""
    if not processes.pid or os.getpid() != owner:
        return
    pid, processes.pid = processes.pid, 0
    for end in (processes.control, *(worker.pipe for worker in processes.workers)):
        with contextlib.suppress(OSError):
            assert end is not None
            end.close()
    processes.workers.clear()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + CLOSE_SECONDS
    with contextlib.suppress(ChildProcessError):  # somebody waited for all children
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
