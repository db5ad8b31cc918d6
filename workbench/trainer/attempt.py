"""One attempt at making updates of a batch: which processes take part, and what it has cost so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from workbench.trainer import distributed
from workbench.trainer.costs import Costs

T = TypeVar("T")


class Attempt:
    """Handed from one part of a rollout's making to the next, and dropped with it where it is interrupted.

    everywhere: statistics are those of all processes, and every one must take part, as in a step; else each process is
    alone with its rollout, as in a validation, whose batches are as many as each process has.
    """

    def __init__(self, *, everywhere: bool = True) -> None:
        self.everywhere = everywhere
        self.costs = Costs()
        self.seconds: dict[str, float] = {}

    def gather(self, value: T) -> list[T]:
        """The value of each process that takes part, in the order of their ranks."""
        return distributed.gather_objects(value) if self.everywhere else [value]

    @property
    def place(self) -> int:
        """This process's place in what gather returns."""
        return distributed.get_rank() if self.everywhere else 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the processes that take part."""
        return distributed.reduce_tensor(values) if self.everywhere else values

    def charge(self, costs: Costs) -> None:
        """Add what this process has spent."""
        self.costs.add(costs)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds that the body takes to `time/<phase>_seconds`."""
        started, name = time.perf_counter(), f"time/{phase}_seconds"
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
