"""Batches in an order that depends on the seed alone, and that any position resumes exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.data.epochs import batches_of_epochs, rows_of_epochs, rows_of_last_batch
from workbench.data.sets import Dataset
from workbench.errors import DataError
from workbench.tracking.words import plural

if TYPE_CHECKING:
    import torch


class BatchLoader:
    """Endless batches: each epoch is a new permutation, one behind the other, so that every batch is full but the last
    of a number of epochs (end_after).

    batch_rows: rows per step over all processes, of which this one takes every world_size-th from its rank on.
    """

    def __init__(self, data: Dataset, batch_rows: int, seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        if not len(data):
            raise DataError("there are no rows to train on")
        if batch_rows < world_size:
            raise DataError(f"{batch_rows} rows a step are fewer than the {world_size} processes that share them")
        self.data, self.batch_rows, self.seed = data, batch_rows, seed
        self._rank, self._world_size = rank, world_size
        self._position = 0
        self._total: int | None = None
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    @property
    def position(self) -> int:
        """Number of the next batch, counted from 0 over all epochs."""
        return self._position

    @position.setter
    def position(self, value: int) -> None:
        self._position = value

    def __len__(self) -> int:
        """Batches an epoch, a last partial one counted."""
        return -(-len(self.data) // self.batch_rows)

    def end_after(self, epochs: float, smallest_share: int = 1) -> int:
        """Cut the batch that ends so many epochs to the rows that are left; how many batches they are.

        smallest_share: rows that each process needs of it; DataError where it has fewer.
        """
        rows = len(self.data)
        count, last = (rule(epochs, rows, self.batch_rows) for rule in (batches_of_epochs, rows_of_last_batch))
        needed = smallest_share * self._world_size
        if last < needed <= self.batch_rows:
            raise DataError(
                f"{plural(epochs, 'epoch', 'g')} of {plural(rows, 'row')} end with a batch of {last}, and one needs "
                f"{needed} here: {smallest_share} for each of {self._world_size} processes; set steps, which are all "
                "full"
            )
        self._total = rows_of_epochs(epochs, rows)
        return count

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            rows = self._take()
            # Rows are sorted by length, so that micro-batches pad little; no loss depends on the order within a step.
            rows = rows[np.argsort(self.data.lengths[rows], kind="stable")]
            yield self._batch(rows[self._rank :: self._world_size])

    def _take(self) -> np.ndarray:
        """The rows of the next batch, over all processes; the position moves behind it."""
        rows = self.rows_of(self._position)
        self._position += 1
        return rows

    def _batch(self, rows: np.ndarray) -> dict[str, Any]:
        """This process's rows of a batch, padded."""
        return self.data.batch(rows)

    def rows_of(self, position: int) -> np.ndarray:
        """The rows of batch number `position`, over all processes."""
        first, size = self._span(position)
        rows = np.arange(first, first + size)
        epochs = rows // len(self.data)
        taken = [self._permutation(int(e))[rows[epochs == e] % len(self.data)] for e in np.unique(epochs)]
        return np.concatenate(taken)

    def _span(self, position: int) -> tuple[int, int]:
        """How many rows were drawn before batch number `position`, and how many it has."""
        first, size = position * self.batch_rows, self.batch_rows
        if self._total is not None:
            # A step that takes several batches may go on behind the last one, from where that was cut.
            beyond = max(0, position - (self._total - 1) // self.batch_rows)
            first = first if not beyond else self._total + (beyond - 1) * self.batch_rows
            size = size if beyond else min(size, self._total - first)
        return first, size

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self.data))
            self._epoch = epoch
        return self._order
