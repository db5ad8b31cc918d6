"""Rows with what a teacher says of each of their learned tokens, over the whole vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.data.sets import Part, RowSet

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TaughtSet:
    """Rows, and the teacher's log-probabilities (learned tokens, V) float32, read from the disk as needed."""

    rows: RowSet
    logprobs: np.ndarray

    @classmethod
    def load(cls, rows: RowSet, path: Path) -> TaughtSet:
        """The rows with what a stage stored of them."""
        return cls(rows, np.load(path, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return self.rows.lengths

    @property
    def text_lengths(self) -> np.ndarray:
        """Tokens of each row's longest text."""
        return self.rows.text_lengths

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """What a RowSet's batch has, and teacher_logprobs (B, L, V), 0 where the token is not learned."""
        import torch

        batch = self.rows.batch(rows)
        found = np.zeros((*batch["labels"].shape, self.logprobs.shape[1]), np.float32)
        before = np.concatenate(([0], np.cumsum(self.rows.labelled)))[self.rows.ids.offsets]
        for place, row in enumerate(rows):
            learned = self.rows.labelled[self.rows.ids.offsets[row] : self.rows.ids.offsets[row + 1]]
            found[place, np.flatnonzero(learned)] = self.logprobs[before[row] : before[row + 1]]
        return {**batch, "teacher_logprobs": torch.from_numpy(found)}

    def parts(self, row: int) -> list[Part]:
        """A row as it is shown."""
        return self.rows.parts(row)


def num_learned(rows: RowSet) -> int:
    """Tokens of which a teacher's log-probabilities are stored."""
    return int(rows.labelled.sum())


def stored_bytes(tokens: float, vocabulary: int) -> float:
    """What is stored of so many tokens."""
    return 4.0 * tokens * vocabulary


def save_logprobs(path: Path, parts: list[Any]) -> None:
    """Writes what TaughtSet.load reads: the log-probabilities of each row's learned tokens, row after row."""
    np.save(path, np.concatenate(parts), allow_pickle=False)
