"""Metric values that pool exactly: how a metric reduces is its type, never its name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
        """The mean; NaN when nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else math.nan


@dataclass(frozen=True)
class Max:
    """The largest value seen."""

    value: Number

    def pool(self, other: Max) -> Max:
        first, second = float(self.value), float(other.value)
        # max() keeps or drops a NaN by its place; a NaN that was seen must be told.
        return Max(math.nan if math.isnan(first) or math.isnan(second) else max(first, second))

    def result(self) -> float:
        return float(self.value)


@dataclass(frozen=True)
class Min:
    """The smallest value seen."""

    value: Number

    def pool(self, other: Min) -> Min:
        first, second = float(self.value), float(other.value)
        return Min(math.nan if math.isnan(first) or math.isnan(second) else min(first, second))

    def result(self) -> float:
        return float(self.value)


Value = Sum | Mean | Max | Min


def pool(first: Value, second: Value) -> Value:
    """Returns both as one value. Raises TypeError when they reduce differently."""
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


def settle(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """Returns the same values with every tensor made a float, ready to leave this process."""
    return {name: type(value)(*(float(part) for part in vars(value).values())) for name, value in metrics.items()}
