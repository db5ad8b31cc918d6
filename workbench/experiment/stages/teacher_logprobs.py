"""The stage "teacher_logprobs": what a teacher says of each learned token of fixed rows, for all runs that share it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.data.sets import RowSet
from workbench.data.taught import save_logprobs
from workbench.experiment.stages.scoring import score_rows

if TYPE_CHECKING:
    import torch

    from workbench.models.flops import Work

TEACHER_FILE = "teacher_logprobs.npy"
LARGEST = 1 << 30
"""Bytes of the largest store: beyond it a teacher is asked at each step."""


def score_by_teacher(folder: Path, rows: RowSet, **how: Any) -> dict[str, Any]:
    """Write the teacher's log-probabilities of the whole vocabulary at every learned token; returns the costs. how: as
    score_rows takes it."""
    parts, costs = score_rows(rows, _score, **how)
    save_logprobs(folder / TEACHER_FILE, parts)
    return {"costs": costs}


def _score(model: torch.nn.Module, batch: dict[str, torch.Tensor], _: np.ndarray) -> tuple[list[np.ndarray], Work]:
    """The log-probabilities (learned tokens, vocabulary) of each row."""
    from workbench.models.outputs import forward_to_head
    from workbench.objectives.logprobs import head_logits
    from workbench.trainer.rows import learned, rows_work

    kept = learned(batch)
    found = forward_to_head(model, batch["input_ids"], batch["attention_mask"])
    logprobs = head_logits(found.hidden[:, :-1][kept], found.weight, found.bias, 1.0).float().log_softmax(-1)
    # A row's first token is predicted from nothing: where it is learned, its place is held by zeros.
    first = batch["labels"][:, 0] != -100
    parts = np.split(logprobs.cpu().numpy(), np.cumsum(kept.sum(1).cpu().numpy())[:-1])
    empty = np.zeros((1, logprobs.shape[1]), np.float32)
    whole = [np.concatenate([empty, part]) if held else part for held, part in zip(first, parts, strict=True)]
    return whole, rows_work(model, batch)
