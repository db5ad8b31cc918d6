"""The stage "teacher_logprobs": what a teacher says of each learned token of fixed rows, for all runs that share it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data.sets import RowSet
from workbench.data.taught import save_logprobs
from workbench.experiment.running.launchers import fork_map
from workbench.experiment.stages.reference_logprobs import blocks_of
from workbench.experiment.stages.worker import Worker

TEACHER_FILE = "teacher_logprobs.npy"
LARGEST = 1 << 30
"""Bytes of the largest store: beyond it a teacher is asked at each step."""


def score_by_teacher(
    folder: Path,
    rows: RowSet,
    *,
    model_folder: Path,
    worker: Worker,
    jobs: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write the teacher's log-probabilities of the whole vocabulary at every learned token; returns the costs."""

    def setup() -> Any:
        from workbench.models.flops import ModelFlops

        model = worker.load(model_folder)
        return model, ModelFlops.counted_of(model, learns=False, half=worker.is_half)

    def score(loaded: Any, chosen: np.ndarray) -> tuple[list[np.ndarray], float, float]:
        import torch

        from workbench.models.outputs import forward_to_head
        from workbench.objectives.logprobs import head_logits
        from workbench.trainer.rows import learned, rows_work

        model, flops = loaded
        device = next(model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in rows.batch(chosen).items()}
        kept = learned(batch)
        with torch.no_grad(), worker.autocast():
            found = forward_to_head(model, batch["input_ids"], batch["attention_mask"])
            hidden = found.hidden[:, :-1][kept]
            logprobs = head_logits(hidden, found.weight, found.bias, 1.0).float().log_softmax(-1)
        # A row's first token is predicted from nothing: where it is learned, its place is held by zeros.
        first = batch["labels"][:, 0] != -100
        parts = np.split(logprobs.cpu().numpy(), np.cumsum(kept.sum(1).cpu().numpy())[:-1])
        empty = np.zeros((1, logprobs.shape[1]), np.float32)
        whole = [np.concatenate([empty, part]) if held else part for held, part in zip(first, parts, strict=True)]
        work = rows_work(model, batch)
        return whole, work.read, flops.forward(work)

    done = 0

    def count(result: tuple[list[np.ndarray], float, float]) -> None:
        nonlocal done
        done += len(result[0])
        on_progress(done, len(rows))

    on_progress(0, len(rows))
    blocks = blocks_of(rows.lengths)
    results = fork_map(setup, score, blocks, jobs=jobs, threads=worker.threads, on_result=count)
    parts: list[Any] = [None] * len(rows)
    for chosen, (found, *_) in zip(blocks, results, strict=True):
        for row, part in zip(chosen, found, strict=True):
            parts[row] = part
    save_logprobs(folder / TEACHER_FILE, parts)
    read, flops = (sum(values) for values in list(zip(*results, strict=True))[1:])
    return {"costs": {"scored_tokens": int(read), "flops": None if math.isnan(flops) else flops}}
