"""Batches as the core sees them: tensors that share their first dimension, cut by rows, taken from any loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch

from workbench.errors import DataError

Batch = dict[str, torch.Tensor]


@runtime_checkable
class EpochLoader(Protocol):
    """A loader that counts epochs by rows (workbench.data's BatchLoader), so that the last step takes those left."""

    def end_after(self, epochs: float, smallest_share: int = 1) -> int:
        """Cut the batch that ends so many epochs to the rows that are left; how many batches they are."""


def num_rows(batch: Batch) -> int:
    """Rows of a batch: the size of its tensors' first dimension."""
    return next(iter(batch.values())).shape[0]


def is_empty(batch: Any) -> bool:
    """Whether a loader's batch is a dict of columns (tensors, lists of texts) without rows."""
    return isinstance(batch, dict) and all(isinstance(v, torch.Tensor | list) and not len(v) for v in batch.values())


def split_rows(batch: Batch, rows: int | None) -> Iterator[Batch]:
    """The batch in slices of at most `rows` rows; whole when rows is None."""
    total = num_rows(batch)
    size = rows or total
    if size >= total:
        yield batch
        return
    for start in range(0, total, size):
        yield {key: value[start : start + size] for key, value in batch.items()}


def batches_from(loader: Any, position: int) -> Iterator[Any]:
    """The loader's batches from number `position` on, epoch after epoch.

    A loader with a settable `position` (workbench.data's BatchLoader) jumps there; any other is replayed.
    """
    if hasattr(type(loader), "position"):
        loader.position = position
        yield from loader
        position = 0  # a loader that ends begins again
    while True:
        empty = True
        for batch in loader:
            empty = False
            if position > 0:
                position -= 1
            else:
                yield batch
        if empty:
            raise DataError("train_loader gives no batch; a generator can be read only once: pass a list or a loader")
