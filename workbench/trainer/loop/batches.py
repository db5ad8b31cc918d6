"""Batches as the core sees them: tensors that share their first dimension, cut by rows, taken from any loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch

from workbench.errors import DataError, MethodError

Batch = dict[str, torch.Tensor]


@runtime_checkable
class EpochLoader(Protocol):
    """A loader that counts epochs by rows (workbench.data's BatchLoader), so that the last step takes those left."""

    def end_after(self, epochs: float, smallest_share: int = 1) -> int:
        """Cut the batch that ends so many epochs to the rows that are left; how many batches they are."""


def num_rows(batch: Batch) -> int:
    """Rows of a batch: the size of its tensors' first dimension."""
    return next(iter(batch.values())).shape[0]


def check_updates(batches: Any) -> None:
    """MethodError unless a method's hooks gave what the loop takes: dicts of tensors that share their first dimension,
    at least one."""
    if not batches:
        raise MethodError("_make_update_batches gave no batch; allowed one or more")
    for batch in batches:
        if not isinstance(batch, Mapping) or not all(isinstance(v, torch.Tensor) and v.ndim for v in batch.values()):
            found = type(batch).__name__
            if isinstance(batch, Mapping):
                bad = [key for key, v in batch.items() if not (isinstance(v, torch.Tensor) and v.ndim)]
                found = f"dict in which {bad[0]} is a {type(batch[bad[0]]).__name__}"
            raise MethodError(
                f"_prepare_batch gave a {found}; allowed a dict of tensors that share their first dimension"
            )
        rows = {key: len(value) for key, value in batch.items()}
        if len(set(rows.values())) != 1:
            raise MethodError(f"_prepare_batch gave tensors of different numbers of rows: {rows}; allowed one number")


def is_empty(batch: Any) -> bool:
    """Whether a loader's batch is a dict of columns (tensors, lists of texts) without rows."""
    return isinstance(batch, Mapping) and all(isinstance(v, torch.Tensor | list) and not len(v) for v in batch.values())


def split_rows(batch: Batch, rows: int | None) -> Iterator[Batch]:
    """The batch in slices of at most `rows` rows; whole when rows is None."""
    total = num_rows(batch)
    size = rows or total
    if size >= total:
        yield batch
        return
    for start in range(0, total, size):
        yield {key: value[start : start + size] for key, value in batch.items()}


def batches_from(loader: Any, position: int, *, read_before: bool = False) -> Iterator[Any]:
    """The loader's batches from number `position` on, epoch after epoch.

    A loader with a settable `position` (workbench.data's BatchLoader) jumps there; any other is replayed. Raises
    DataError where it gives none, or is a generator that was read_before: it would go on where it was left.
    """
    if read_before and isinstance(loader, Iterator):
        raise DataError(
            "train_loader is a generator, which can be read only once, and training begins again from it; pass a list "
            "or a loader, or a new trainer with a new generator"
        )
    if hasattr(type(loader), "position"):
        loader.position = position
        yield from loader
        position = 0  # a loader that ends begins again
    taken = 0
    while True:
        empty = True
        for batch in loader:
            empty, taken = False, taken + 1
            if position > 0:
                position -= 1
            else:
                yield batch
        if empty and taken:
            raise DataError(
                f"train_loader ended after {taken} batches, and steps are more; a generator can be read only once: "
                f"pass a list or a loader, or set steps to {taken}"
            )
        if empty:
            raise DataError("train_loader gives no batch; a generator can be read only once: pass a list or a loader")
