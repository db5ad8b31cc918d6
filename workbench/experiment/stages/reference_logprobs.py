"""The stage "ref_logprobs": per-token log-probabilities of the reference, computed once for all runs that share it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.data.sets import PairSet, save_reference
from workbench.experiment.stages.scoring import score_rows

if TYPE_CHECKING:
    import torch

    from workbench.models.flops import Work

REFERENCE_FILE = "ref_logprobs.safetensors"


def score_reference(folder: Path, pairs: PairSet, **how: Any) -> dict[str, Any]:
    """Write the log-probabilities of both completions of every pair, laid out as the pairs; returns the costs. how: as
    score_rows takes it."""

    def score(
        model: torch.nn.Module, batch: dict[str, torch.Tensor], rows: np.ndarray
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], Work]:
        from workbench.trainer.pairs import pair_logprobs, pairs_work

        found = pair_logprobs(model, batch)
        chosen = _unpadded(found.chosen, pairs.chosen.lengths[rows])
        rejected = _unpadded(found.rejected, pairs.rejected.lengths[rows])
        return list(zip(chosen, rejected, strict=True)), pairs_work(model, batch)

    scored, costs = score_rows(pairs, score, **how)
    chosen, rejected = (np.concatenate(side) for side in zip(*scored, strict=True))
    save_reference(folder / REFERENCE_FILE, chosen, rejected)
    return {"costs": costs}


def _unpadded(values: torch.Tensor, lengths: np.ndarray) -> list[np.ndarray]:
    rows = values.float().cpu().numpy()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]
