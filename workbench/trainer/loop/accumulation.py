"""One step's gradient from micro-batches: sums divided once by the units of the whole step, over all processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from workbench.errors import MethodError
from workbench.tracking.values import Value, pool_metrics, results, settle
from workbench.trainer.loss import LossResult
from workbench.trainer.machine import distributed

COUNT_UNITS = (
    "define _count_units(self, batch), which gives the units of every term in the whole batch before its first "
    "forward, by name, such as {'nll': 120.0, 'pairs': 8.0}"
)


class StepLoss:
    """Pools a step's loss terms and metrics over micro-batches and processes.

    units: each term's global number of units, known before the first backward; None when they are known only
    afterwards: gradients are then those of the sum, and `finish` divides them (all terms must share one unit).
    """

    def __init__(self) -> None:
        self.units: dict[str, float] | None = None
        self._is_foreseen = False
        self._sums: dict[str, torch.Tensor] = {}
        self._local_units: dict[str, float] = {}
        self._weights: dict[str, float] = {}
        self._metrics: list[dict[str, Value]] = []

    def know(self, local_units: dict[str, float], *, beforehand: bool = True) -> None:
        """Take in this process's units of the whole step, of every term; every process must call it. beforehand: before
        the first forward, so that a step without any is meant to be one. Raises MethodError."""
        try:
            own = {name: float(number) for name, number in local_units.items()}
        except (AttributeError, TypeError, ValueError):
            raise MethodError(f"_count_units gave {local_units!r}; allowed a number by each term's name") from None
        self.units = _summed(distributed.gather_objects(own))
        self._is_foreseen = beforehand

    def add(self, result: LossResult) -> torch.Tensor:
        """Take in a micro-batch; returns the scalar to run backward on (DDP's averaging undone). Raises MethodError
        where its terms are not those whose units are known."""
        parts = []
        for name, term in result.terms.items():
            if self.units is not None and name not in self.units:
                counted = ", ".join(self.units) or "none"
                raise MethodError(f"_compute_loss gave the term {name}, and _count_units counts {counted}; count all")
            divisor = 1.0 if self.units is None else self.units[name] or 1.0
            parts.append(term.loss_sum * (term.weight * distributed.get_world_size() / divisor))
            detached = term.loss_sum.detach().double()
            self._sums[name] = self._sums[name] + detached if name in self._sums else detached
            self._local_units[name] = self._local_units.get(name, 0.0) + term.num_units
            self._weights[name] = term.weight
        self._metrics.append(result.metrics)
        return torch.stack(parts).sum()

    def finish(self, parameters: Sequence[torch.nn.Parameter] = ()) -> dict[str, float]:
        """The whole step's "loss", each term's mean ("loss/<term>") where there are several, and the metrics.

        parameters: whose gradients are still to be divided by the units. Where no unit was seen anywhere the loss is
        NaN, but 0 where that was known beforehand: then there is nothing to learn from.
        """
        own = {name: total.item() for name, total in self._sums.items()}
        found = distributed.gather_objects((own, self._local_units, self._weights, settle(pool_metrics(self._metrics))))
        sums, weights = _summed([part[0] for part in found]), {k: v for part in found for k, v in part[2].items()}
        units = _summed([part[1] for part in found])
        if self.units is None:
            _divide_gradients(parameters, units)
        is_known = self._is_foreseen or (self.units is not None and any(units.values()))
        nothing = 0.0 if is_known else math.nan
        means = {name: sums[name] / units[name] if units[name] else nothing for name in sorted(sums)}
        row = {"loss": sum(weights[name] * mean for name, mean in means.items()) if means else math.nan}
        if len(means) > 1:
            row |= {f"loss/{name}": mean for name, mean in means.items()}
        return row | results(pool_metrics(part[3] for part in found))


def _divide_gradients(parameters: Sequence[torch.nn.Parameter], units: dict[str, float]) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients and len(set(units.values())) > 1:
        found = ", ".join(f"{name} {number:g}" for name, number in units.items())
        raise MethodError(
            f"the loss has terms of different units ({found}), and the step several micro-batches; {COUNT_UNITS}, or "
            "leave micro_batch_rows out"
        )
    for gradient in gradients:
        gradient.div_(next(iter(units.values())) or 1.0)


def _summed(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Totals by name, in the order of the processes."""
    totals: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals
