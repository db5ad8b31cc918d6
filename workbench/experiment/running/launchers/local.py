"""Runs in processes of this machine, forked from this warm one, `jobs` side by side."""

from __future__ import annotations

import multiprocessing.connection
import signal

from workbench.experiment.running.launchers.launcher import Job, Launcher
from workbench.experiment.running.processes import RunProcess
from workbench.interrupts import held


class LocalLauncher(Launcher):
    """The processes end with this one, even where it is killed."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._processes: dict[str, RunProcess] = {}

    @property
    def running(self) -> frozenset[str]:
        """Keys of the runs whose processes were not yet told to have ended."""
        return frozenset(self._processes)

    def has_room(self) -> bool:
        """Whether fewer than `jobs` run."""
        return len(self._processes) < self.jobs

    def submit(self, job: Job) -> None:
        """Fork a process for the run."""
        with held():  # a run that was started is known, and so will be stopped
            self._processes[job.key] = RunProcess(job.work, job.threads, job.log)

    def wait(self, seconds: float) -> dict[str, int]:
        """The exit codes of processes that have ended."""
        multiprocessing.connection.wait([p.sentinel for p in self._processes.values()], timeout=seconds)
        ended: dict[str, int] = {}
        for key, process in list(self._processes.items()):
            code = process.exit_code()
            if code is not None:
                process.join()
                del self._processes[key]
                ended[key] = code
        return ended

    def send(self, number: int) -> None:
        """Pass a signal on."""
        for process in self._processes.values():
            process.send(number)

    def kill(self) -> None:
        """End every process."""
        self.send(signal.SIGKILL)
        for process in self._processes.values():
            process.join()
