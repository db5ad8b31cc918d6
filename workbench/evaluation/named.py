"""One of several held-out sets: its metrics and records say which set they are of, and its measuring is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from workbench.tracking.names import SET, metric_of_set, seconds_of_set

Labels = Mapping[str, str]
NO_LABELS: Labels = {}


def labels_of_set(name: str | None) -> Labels:
    """What the records of a set say beside; nothing where there is but one set."""
    return {} if name is None else {SET: name}


@dataclass(frozen=True)
class OfSet:
    """Called as evaluator(model, step) -> metrics: those of a set's evaluators as one of several sets bears them, and
    the seconds that they took. decides: its metrics keep their plain names."""

    name: str
    decides: bool
    evaluators: Sequence[Callable[[torch.nn.Module, int], dict[str, float]]]

    def __call__(self, model: torch.nn.Module, step: int) -> dict[str, float]:
        started = time.perf_counter()
        found: dict[str, float] = {}
        for evaluator in self.evaluators:
            found |= evaluator(model, step)
        if not self.decides:
            found = {metric_of_set(metric, self.name): value for metric, value in found.items()}
        return found | {seconds_of_set(self.name): time.perf_counter() - started}
