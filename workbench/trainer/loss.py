"""What a trainer's `_compute_loss` returns: sums and their units, so that the base can divide once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from workbench.errors import MethodError
from workbench.tracking.values import Mean, Value


@dataclass(frozen=True)
class LossTerm:
    """One term of a loss: its *sum* over this micro-batch and the number of units (tokens, pairs) summed."""

    loss_sum: torch.Tensor
    """Scalar, float32, with gradient."""
    num_units: float
    """How many tokens, pairs or rows the sum is over."""
    weight: float = 1.0
    """The term's weight in the total."""


@dataclass(frozen=True)
class RowSums:
    """What each row of the micro-batch adds to a term or to a metric, and over how many units."""

    sums: torch.Tensor
    """(B,), of a term with gradient."""
    units: torch.Tensor
    """(B,)."""

    @classmethod
    def weighted(cls, values: Mapping[str, torch.Tensor], weights: torch.Tensor) -> dict[str, RowSums]:
        """Makes them of values (B,) by name, of which each row's counts as its weight (B,) says."""
        return {name: cls(value * weights, weights) for name, value in values.items()}

    def as_term(self, weight: float = 1.0) -> LossTerm:
        """The term that the rows add up to."""
        return LossTerm(self.sums.sum(), float(self.units.sum()), weight)

    def as_mean(self) -> Mean:
        """The metric that the rows add up to."""
        return Mean(self.sums.detach().sum().double(), self.units.sum().double())


@dataclass(frozen=True)
class LossResult:
    """Every term by name, and metrics as poolable values (never means of means)."""

    terms: dict[str, LossTerm]
    metrics: dict[str, Value] = field(default_factory=dict)
    rows: dict[str, RowSums] = field(default_factory=dict)
    """What the rows add to a term or a metric, by its name. Where rows are of several sources it is recorded of each,
    and the losses of a source can be weighted."""

    @classmethod
    def of_rows(
        cls,
        terms: Mapping[str, RowSums],
        metrics: Mapping[str, RowSums],
        weights: Mapping[str, float] | None = None,
    ) -> LossResult:
        """Terms and metrics from what their rows add. weights: those of terms, where they are not 1."""
        return cls(
            {name: rows.as_term((weights or {}).get(name, 1.0)) for name, rows in terms.items()},
            {name: rows.as_mean() for name, rows in metrics.items()},
            {**terms, **metrics},
        )

    def with_metrics(self, metrics: Mapping[str, Value]) -> LossResult:
        """The result with metrics besides, which are not told by rows."""
        return replace(self, metrics={**self.metrics, **metrics})

    @property
    def units(self) -> dict[str, float]:
        """Each term's number of units."""
        return {name: float(term.num_units) for name, term in self.terms.items()}


def as_result(loss: Any, num_rows: int) -> LossResult:
    """What _compute_loss gave, a bare scalar taken as the mean over the micro-batch's rows. Raises MethodError where it
    is neither that nor a LossResult of sums."""
    if not isinstance(loss, LossResult):
        if not _is_scalar(loss):
            raise _refused(f"a {_described(loss)}", "a LossResult, or a scalar tensor, the mean over the rows")
        return LossResult({"loss": LossTerm(loss * num_rows, num_rows)})
    if not loss.terms:
        raise _refused("a LossResult without terms", "at least one")
    for name, term in loss.terms.items():
        if not isinstance(term, LossTerm):
            raise _refused(f"the term {name} as a {_described(term)}", "LossTerm(loss_sum, num_units)")
        if not _is_scalar(term.loss_sum):
            raise _refused(f"a loss_sum of {name} that is a {_described(term.loss_sum)}", "a scalar tensor, the sum")
    for name, value in loss.metrics.items():
        if not isinstance(value, Value):
            raise _refused(
                f"the metric {name} as a {_described(value)}",
                "Mean(sum, count), Sum(total), Max(value) or Min(value) of workbench.tracking.values",
            )
    for name, rows in loss.rows.items():
        if any(values.shape != (num_rows,) for values in (rows.sums, rows.units)):
            raise _refused(f"rows of {name} as {_described(rows.sums)}", f"one number a row, ({num_rows},)")
    return loss


def _is_scalar(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.ndim


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")


def _refused(found: str, allowed: str) -> MethodError:
    return MethodError(f"_compute_loss gave {found}; allowed {allowed}")
