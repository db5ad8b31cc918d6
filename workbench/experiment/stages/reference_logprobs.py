"""The stage "ref_logprobs": per-token log-probabilities of the reference, computed once for all runs that share it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data.sets import PairSet, save_reference
from workbench.experiment.running.launchers import fork_map
from workbench.experiment.stages.worker import Worker

BLOCK_TOKENS = 8192
"""Tokens scored at a time, about; the same whatever the number of processes."""
REFERENCE_FILE = "ref_logprobs.safetensors"


def score_reference(
    folder: Path,
    pairs: PairSet,
    *,
    model_folder: Path,
    worker: Worker,
    jobs: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write the log-probabilities of both completions of every pair, laid out as the pairs; returns the costs."""

    def setup() -> Any:
        from workbench.models.flops import ModelFlops

        model = worker.load(model_folder)
        return model, ModelFlops.counted_of(model, learns=False, half=worker.is_half)

    def score(loaded: Any, rows: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], float, float]:
        import torch

        from workbench.trainer.pairs import completion_logprobs, pairs_work

        model, flops = loaded
        device = next(model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in pairs.batch(rows).items()}
        with torch.no_grad(), worker.autocast():
            _, chosen, rejected = completion_logprobs(model, batch)
        work = pairs_work(model, batch)
        sides = (_unpadded(chosen, pairs.chosen.lengths[rows]), _unpadded(rejected, pairs.rejected.lengths[rows]))
        return *sides, work.read, flops.forward(work)

    done = 0

    def count(result: tuple[list[np.ndarray], list[np.ndarray], float, float]) -> None:
        nonlocal done
        done += len(result[0])
        on_progress(done, len(pairs))

    on_progress(0, len(pairs))
    blocks = blocks_of(pairs.lengths)
    results = fork_map(setup, score, blocks, jobs=jobs, threads=worker.threads, on_result=count)
    sides: tuple[list[Any], list[Any]] = ([None] * len(pairs), [None] * len(pairs))
    for rows, (chosen, rejected, *_) in zip(blocks, results, strict=True):
        for row, own, other in zip(rows, chosen, rejected, strict=True):
            sides[0][row], sides[1][row] = own, other
    save_reference(folder / REFERENCE_FILE, np.concatenate(sides[0]), np.concatenate(sides[1]))
    read, flops = (sum(values) for values in list(zip(*results, strict=True))[2:])
    return {"costs": {"scored_tokens": int(read), "flops": None if math.isnan(flops) else flops}}


def blocks_of(lengths: np.ndarray) -> list[np.ndarray]:
    """Rows of like length together."""
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order]) // BLOCK_TOKENS
    return [order[ends == block] for block in np.unique(ends)]


def _unpadded(values: Any, lengths: np.ndarray) -> list[np.ndarray]:
    rows = values.float().cpu().numpy()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]
