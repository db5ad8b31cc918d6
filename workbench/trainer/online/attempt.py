"""One attempt at making updates of a batch: who takes part, how it is cut, and what it has cost and shown so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from workbench.trainer.machine import distributed
from workbench.trainer.records.costs import Costs

T = TypeVar("T")


class Attempt:
    """Is handed from one part of a rollout's making to the next, and dropped with it where it is interrupted.

    passes, minibatches: how often the rollout is learned from, and in how many parts. everywhere: statistics are those
    of all processes, and every one must take part, as in a step; else each process is alone with its rollout, as in a
    validation, whose batches are as many as each process has.
    """

    def __init__(self, passes: int = 1, minibatches: int = 1, *, everywhere: bool = True) -> None:
        self.passes, self.minibatches, self.everywhere = passes, minibatches, everywhere
        self.costs = Costs()
        self.metrics: dict[str, float] = {}
        """Entries of the row of the first step that learns from the rollout."""

    @property
    def num_updates(self) -> int:
        """Optimiser steps that the rollout gives."""
        return self.passes * self.minibatches

    def gather(self, value: T) -> list[T]:
        """The value of each process that takes part, in the order of their ranks."""
        return distributed.gather_objects(value) if self.everywhere else [value]

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the processes that take part."""
        return distributed.reduce_tensor(values) if self.everywhere else values

    def over_all(self, function: Callable[..., torch.Tensor], *columns: torch.Tensor) -> torch.Tensor:
        """function(*columns) over the rows (N,) of all processes that take part; this process's part, on the CPU."""
        return distributed.over_all_rows(function, *columns, everywhere=self.everywhere)

    def charge(self, costs: Costs) -> None:
        """Add what this process has spent."""
        self.costs.add(costs)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds that the body takes to the metric `time/<phase>_seconds`."""
        started, name = time.perf_counter(), f"time/{phase}_seconds"
        yield
        self.metrics[name] = self.metrics.get(name, 0.0) + time.perf_counter() - started
