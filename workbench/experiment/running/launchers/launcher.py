"""What a launcher promises.

It is given runs whose records are written (planned_run.py) and whose starts are finished, and trains each once, from
its record, as `workbench train` does: results, folders, resume and exit codes are the same wherever that is. It takes
no run while it has no room, and it tells the exit code of each that has ended. How a run stands is in its folder; a
launcher says only what no folder can: that the process is gone. A signal that it passes on reaches every run, which
writes a checkpoint and ends. What a launcher needs of its machine is looked at before anything is submitted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One run to be trained, and what it needs."""

    key: str
    threads: int
    log: Path
    """Where all that it prints goes."""
    work: Callable[[], None]
    """Trains the run in the process that calls it; a launcher whose processes begin anew starts `workbench train`."""


class Launcher(ABC):
    """Trains runs, some at a time."""

    @property
    @abstractmethod
    def running(self) -> frozenset[str]:
        """Keys of the runs that were submitted and have not been told to have ended."""

    @abstractmethod
    def has_room(self) -> bool:
        """Whether another run may be submitted now."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Begin the run, now or as soon as its turn comes."""

    @abstractmethod
    def wait(self, seconds: float) -> dict[str, int]:
        """Exit codes by key of the runs that have ended, each told once; waits so long for the first."""

    @abstractmethod
    def send(self, number: int) -> None:
        """Pass a signal on to every run."""

    @abstractmethod
    def kill(self) -> None:
        """End every run at once, without a checkpoint, and wait for it."""
