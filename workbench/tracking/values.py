"""Metric values that pool exactly: how a metric reduces is its type, never its name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Number = Any
"""A float, or a 0-dim tensor that stays on its device until the result is asked for."""


@dataclass(frozen=True)
class Sum:
    """A total over everything seen."""

    total: Number

    def pool(self, other: Sum) -> Sum:
        return Sum(self.total + other.total)

    def result(self) -> float:
        return float(self.total)


@dataclass(frozen=True)
class Mean:
    """A mean over `count` units, kept as its sum: never a mean of means."""

    total: Number
    count: Number

    def pool(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def result(self) -> float:
        """NaN when nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else math.nan


@dataclass(frozen=True)
class Max:
    """The largest value seen."""

    value: Number

    def pool(self, other: Max) -> Max:
        return Max(max(float(self.value), float(other.value)))

    def result(self) -> float:
        return float(self.value)


Value = Sum | Mean | Max


def pool(first: Value, second: Value) -> Value:
    """Both as one. TypeError when they reduce differently."""
    if type(first) is not type(second):
        raise TypeError(f"cannot pool {type(first).__name__} with {type(second).__name__}")
    return first.pool(second)  # type: ignore[arg-type]


def pool_metrics(parts: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    """Every metric of every part, pooled by name."""
    pooled: dict[str, Value] = {}
    for part in parts:
        for name, value in part.items():
            pooled[name] = pool(pooled[name], value) if name in pooled else value
    return pooled


def results(metrics: Mapping[str, Value]) -> dict[str, float]:
    """The number of each metric."""
    return {name: value.result() for name, value in metrics.items()}


def pack(metrics: Mapping[str, Value]) -> tuple[list[float], list[float]]:
    """What to sum and what to maximise over processes, in the order of the sorted names."""
    sums: list[float] = []
    maxes: list[float] = []
    for name in sorted(metrics):
        value = metrics[name]
        if isinstance(value, Max):
            maxes.append(float(value.value))
        elif isinstance(value, Mean):
            sums += [float(value.total), float(value.count)]
        else:
            sums.append(float(value.total))
    return sums, maxes


def unpack(like: Mapping[str, Value], sums: Sequence[float], maxes: Sequence[float]) -> dict[str, Value]:
    """The mirror of pack, on reduced numbers."""
    summed, maximal = iter(sums), iter(maxes)
    unpacked: dict[str, Value] = {}
    for name in sorted(like):
        value = like[name]
        if isinstance(value, Max):
            unpacked[name] = Max(next(maximal))
        elif isinstance(value, Mean):
            unpacked[name] = Mean(next(summed), next(summed))
        else:
            unpacked[name] = Sum(next(summed))
    return unpacked
