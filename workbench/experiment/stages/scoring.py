"""Scores rows under a frozen model, in blocks and side by side, for the stages that keep what it says of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from workbench.data.sets import TokenSet
from workbench.experiment.running.processes import fork_map
from workbench.experiment.stages.worker import Worker

if TYPE_CHECKING:
    import torch

    from workbench.models.flops import Work

T = TypeVar("T")

BLOCK_TOKENS = 8192
"""Tokens scored at a time, about; the same whatever the number of processes."""


def score_rows(
    data: TokenSet,
    score: Callable[[torch.nn.Module, dict[str, torch.Tensor], np.ndarray], tuple[list[T], Work]],
    *,
    model_folder: Path,
    worker: Worker,
    jobs: int,
    on_progress: Callable[[int, int], None],
) -> tuple[list[T], dict[str, Any]]:
    """What `score` gives of each row, in the rows' order, and the costs.

    score(model, batch, rows) gives what is kept of each row of the batch, and what the pass computed. It runs without
    gradients. rows: their numbers.
    """

    def setup() -> Any:
        from workbench.models.flops import ModelFlops

        model = worker.load(model_folder)
        return model, ModelFlops.counted_of(model, learns=False, half=worker.is_half)

    def score_block(loaded: Any, rows: np.ndarray) -> tuple[list[T], float, float]:
        import torch

        model, flops = loaded
        device = next(model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in data.batch(rows).items()}
        with torch.no_grad(), worker.autocast():
            found, work = score(model, batch, rows)
        return found, work.read, flops.forward(work)

    done = 0

    def count(result: tuple[list[T], float, float]) -> None:
        nonlocal done
        done += len(result[0])
        on_progress(done, len(data))

    on_progress(0, len(data))
    blocks = blocks_of(data.lengths)
    results = fork_map(setup, score_block, blocks, jobs=jobs, threads=worker.threads, on_result=count)
    kept: list[Any] = [None] * len(data)
    for rows, (found, *_) in zip(blocks, results, strict=True):
        for row, value in zip(rows, found, strict=True):
            kept[row] = value
    read, flops = (sum(values) for values in list(zip(*results, strict=True))[1:])
    return kept, {"scored_tokens": int(read), "flops": None if math.isnan(flops) else flops}


def blocks_of(lengths: np.ndarray) -> list[np.ndarray]:
    """Rows of like length together."""
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order]) // BLOCK_TOKENS
    return [order[ends == block] for block in np.unique(ends)]
