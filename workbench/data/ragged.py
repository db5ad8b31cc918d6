"""Rows of unequal length in one flat array, and their padding into a batch. B rows, L the longest row's length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """values: (sum of lengths,); offsets: (rows + 1,), row r is values[offsets[r]:offsets[r + 1]]."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[int] | np.ndarray], dtype: type = np.int32) -> Ragged:
        """The rows one behind the other."""
        kept = list(rows)
        offsets = np.zeros(len(kept) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in kept], out=offsets[1:])
        values = np.concatenate([np.asarray(row, dtype) for row in kept]) if kept else np.zeros(0, dtype)
        return cls(values.astype(dtype, copy=False), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(rows,)."""
        return np.diff(self.offsets)

    def padded(self, rows: np.ndarray, pad: float, *, left: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The rows named (B,) as (B, L), padded right or left, and their mask (B, L) of real values."""
        lengths = self.lengths[rows]
        width = max(int(lengths.max(initial=0)), 1)
        places = np.arange(width) - (width - lengths[:, None] if left else 0)
        mask = (places >= 0) & (places < lengths[:, None])
        padded = np.full(mask.shape, pad, self.values.dtype)
        padded[mask] = self.values[(self.offsets[rows][:, None] + places)[mask]]
        return padded, mask
