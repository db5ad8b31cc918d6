"""Held-out preference pairs: how often, and by how much, the policy prefers the chosen one more than its start does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from workbench.data.sets import PairSet
from workbench.models.mode import evaluation_mode
from workbench.tracking.names import NUM_PAIRS, PAIR_ACCURACY, PAIR_MARGIN
from workbench.tracking.store import MetricStore
from workbench.trainer.pairs import pair_logratios, summed_logprobs

TIE_DECIMALS = 5
"""h is rounded to 1e-5 nats, below which float32 sums differ by the batch they are made in: a policy equal to its start
ties."""
Score = Callable[[torch.nn.Module, dict[str, torch.Tensor]], torch.Tensor]
"""(model, batch of pairs) -> summed completion log-probabilities (2B,): chosen above rejected."""


class PairEvaluator:
    """Called as evaluator(model, step) -> metrics; appends h of every pair to `records` (pairs.jsonl).

    h = (policy - start) of chosen minus (policy - start) of rejected, log-probabilities summed over the completion.
    """

    def __init__(
        self, pairs: PairSet, score: Score = summed_logprobs, *, batch_pairs: int = 64, records: Path | None = None
    ) -> None:
        """pairs: with the start's log-probabilities."""
        assert pairs.ref_chosen is not None, "pairs need the log-probabilities of the start"
        self.pairs, self.score, self.batch_pairs, self.records = pairs, score, batch_pairs, records

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module, step: int) -> dict[str, float]:
        device = next(model.parameters()).device
        h = np.zeros(len(self.pairs))
        order = np.argsort(self.pairs.lengths, kind="stable")
        for start in range(0, len(order), self.batch_pairs):
            rows = order[start : start + self.batch_pairs]
            batch = {name: tensor.to(device) for name, tensor in self.pairs.batch(rows).items()}
            with evaluation_mode(model):
                h[rows] = pair_logratios(self.score(model, batch).double(), batch).h.cpu().numpy()
        h = h.round(TIE_DECIMALS)
        if self.records is not None:
            store = MetricStore(self.records)
            try:
                store.append_many({"step": step, "pair_id": f"pair{i}", "h": float(x)} for i, x in enumerate(h))
            finally:
                store.close()
        return {
            PAIR_ACCURACY: float((0.5 + 0.5 * np.sign(h)).mean()),
            PAIR_MARGIN: float(h.mean()),
            NUM_PAIRS: float(len(h)),
        }
