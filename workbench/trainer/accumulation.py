"""One step's gradient from micro-batches: sums divided once by the units of the whole step, over all processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from workbench.trainer.distributed import get_world_size, reduce_tensor
from workbench.trainer.loss import LossResult

if TYPE_CHECKING:
    from workbench.tracking.values import Value

Batch = dict[str, torch.Tensor]


def num_rows(batch: Batch) -> int:
    """Rows of a batch: the size of its tensors' first dimension."""
    return next(iter(batch.values())).shape[0]


def split_rows(batch: Batch, rows: int | None) -> Iterator[Batch]:
    """The batch in slices of at most `rows` rows; whole when rows is None."""
    total = num_rows(batch)
    size = rows or total
    if size >= total:
        yield batch
        return
    for start in range(0, total, size):
        yield {key: value[start : start + size] for key, value in batch.items()}


class StepLoss:
    """Pools a step's loss terms and metrics over micro-batches and processes.

    units: each term's global number of units, known before the first backward; None when a term's units are known
    only afterwards: gradients are then those of the sum, and `finish` divides them (all terms must share one unit).
    """

    def __init__(self, local_units: dict[str, float] | None, device: torch.device) -> None:
        self._device = device
        self.units = None if local_units is None else self._pool(local_units)
        self._sums: dict[str, torch.Tensor] = {}
        self._local_units: dict[str, float] = {}
        self._weights: dict[str, float] = {}
        self.metrics: list[dict[str, Value]] = []

    def _pool(self, units: dict[str, float]) -> dict[str, float]:
        names = sorted(units)
        pooled = reduce_tensor(torch.tensor([units[name] for name in names], dtype=torch.float64, device=self._device))
        return dict(zip(names, pooled.tolist(), strict=True))

    def add(self, result: LossResult) -> torch.Tensor:
        """Take in a micro-batch; returns the scalar to run backward on (DDP's averaging undone)."""
        total: torch.Tensor | None = None
        for name, term in result.terms.items():
            divisor = 1.0 if self.units is None else max(self.units[name], 1.0)
            part = term.loss_sum * (term.weight * get_world_size() / divisor)
            total = part if total is None else total + part
            detached = term.loss_sum.detach().double()
            self._sums[name] = self._sums[name] + detached if name in self._sums else detached
            self._local_units[name] = self._local_units.get(name, 0.0) + term.num_units
            self._weights[name] = term.weight
        self.metrics.append(result.metrics)
        assert total is not None, "_compute_loss returned no loss term"
        return total

    def finish(self, parameters: list[torch.nn.Parameter]) -> dict[str, float]:
        """Mean of each term over the whole step ("loss/<term>") and their weighted sum ("loss")."""
        if self.units is None:
            self.units = self._pool(self._local_units)
            shared = set(self.units.values())
            assert len(shared) == 1, f"terms of different units {self.units} need _count_units"
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(max(shared.copy().pop(), 1.0))
        names = sorted(self._sums)
        sums = reduce_tensor(torch.stack([self._sums[name].to(self._device) for name in names])).tolist()
        means = {name: total / max(self.units[name], 1.0) for name, total in zip(names, sums, strict=True)}
        row = {"loss": sum(self._weights[name] * mean for name, mean in means.items())}
        if len(means) > 1:
            row |= {f"loss/{name}": mean for name, mean in means.items()}
        return row
