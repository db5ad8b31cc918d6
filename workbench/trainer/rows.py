"""Rows of which some tokens are learned: which those are, and what a pass over them computes.

A batch has the keys of batch_format.ROWS. Letters: B rows, L positions.
"""

from __future__ import annotations

import torch

from workbench.errors import DataError
from workbench.models.flops import Work
from workbench.objectives.masking import IGNORED
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import RowSums


def wanted_labels(batch: Batch) -> torch.Tensor:
    """(B, L - 1): the label of each position's next token; -100 where the position is no part of the same text."""
    wanted, mask, positions = batch["labels"][:, 1:], batch.get("attention_mask"), batch.get("position_ids")
    if positions is not None:
        return wanted.masked_fill(positions[:, 1:] == 0, IGNORED)
    # A left-padded row's first token has nothing before it to be predicted from.
    return wanted if mask is None else wanted.masked_fill(~mask[:, :-1].bool(), IGNORED)


def learned(batch: Batch) -> torch.Tensor:
    """(B, L - 1) bool: whether each position's next token is learned."""
    return wanted_labels(batch) != IGNORED


def refuse_unlabelled(batch: Batch, where: str) -> Batch:
    """The batch. Raises DataError where a row has no label. where: which batch it is."""
    unlabelled = ~learned(batch).any(1)
    if bool(unlabelled.any()):
        rows = unlabelled.nonzero().flatten().tolist()
        raise DataError(f"{where}: rows {rows[:10]} have no label to learn from (all -100)")
    return batch


def rows_work(model: torch.nn.Module, batch: Batch) -> Work:
    """What forward_to_head and a projection of the learned positions compute of a batch."""
    projected, positions = float(learned(batch).sum()), batch.get("position_ids")
    if positions is not None:
        return Work.of_packed(positions, projected, model)
    real = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    return Work.of_rows(real.sum(1), projected, model, batch["input_ids"].shape[1])


def row_sums(values: torch.Tensor, kept: torch.Tensor) -> RowSums:
    """What each row adds to a mean over learned tokens. values: (tokens,), of those that kept (B, L - 1) is true at."""
    return RowSums(values.new_zeros(len(kept)).index_add(0, kept.nonzero()[:, 0], values), kept.sum(1))
