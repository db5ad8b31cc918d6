"""Held-out preference pairs: how often, and by how much, the chosen one is preferred; by a policy more than its start
does, or by a reward model's scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from workbench.data.sets import PairSet
from workbench.evaluation.named import NO_LABELS, Labels
from workbench.models.mode import evaluation_mode
from workbench.tracking.names import (
    LENGTH_CORRELATION,
    NUM_PAIRS,
    PAIR_ACCURACY,
    PAIR_ACCURACY_OWN,
    PAIR_MARGIN,
    SCORE_MEAN,
    SCORE_SD,
)
from workbench.tracking.store import MetricStore
from workbench.trainer.method import PairScore
from workbench.trainer.pairs import pair_logratios, pair_scores, summed_logprobs

TIE_DECIMALS = 5
"""h is rounded to 1e-5 nats, below which float32 sums differ by the batch they are made in: a policy equal to its start
ties."""
Score = Callable[[torch.nn.Module, dict[str, torch.Tensor]], torch.Tensor]
"""(model, batch of pairs) -> a number of each completion (2B,): chosen above rejected."""


class _Evaluator(ABC):
    """Called as evaluator(model, step) -> metrics; appends h of every pair to `records` (pairs.jsonl), which says by
    how much its chosen completion is preferred."""

    def __init__(
        self,
        pairs: PairSet,
        score: Score,
        *,
        batch_pairs: int = 64,
        records: Path | None = None,
        labels: Labels = NO_LABELS,
    ) -> None:
        """labels: what each recorded row says beside."""
        self.pairs, self.score, self.batch_pairs, self.records = pairs, score, batch_pairs, records
        self.labels = labels

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module, step: int) -> dict[str, float]:
        device = next(model.parameters()).device
        found = np.zeros((2, len(self.pairs)))
        order = np.argsort(self.pairs.lengths, kind="stable")
        for start in range(0, len(order), self.batch_pairs):
            rows = order[start : start + self.batch_pairs]
            batch = {name: tensor.to(device) for name, tensor in self.pairs.batch(rows).items()}
            with evaluation_mode(model):
                found[:, rows] = self._sides(self.score(model, batch).double(), batch).cpu().numpy()
        h = (found[0] - found[1]).round(TIE_DECIMALS)
        if self.records is not None:
            store = MetricStore(self.records)
            try:
                store.append_many(
                    {"step": step, **self.labels, "pair_id": f"pair{i}", "h": float(x)} for i, x in enumerate(h)
                )
            finally:
                store.close()
        return {
            PAIR_ACCURACY: float((0.5 + 0.5 * np.sign(h)).mean()),
            PAIR_MARGIN: float(h.mean()),
            NUM_PAIRS: float(len(h)),
            **self._more(found),
        }

    @abstractmethod
    def _sides(self, scores: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(2, B), of which the difference is h; scores: (2B,)."""

    def _more(self, found: np.ndarray) -> dict[str, float]:
        """Further metrics of both sides of all pairs, (2, pairs)."""
        return {}


class PairEvaluator(_Evaluator):
    """h = (policy - start) of chosen minus (policy - start) of rejected, log-probabilities summed over the completion.
    pairs: with the start's log-probabilities. own: what the method itself prefers a completion by; where that is not
    the log ratio, the accuracy under it is measured too."""

    def __init__(
        self,
        pairs: PairSet,
        score: Score = summed_logprobs,
        *,
        own: PairScore = "log_ratio",
        batch_pairs: int = 64,
        records: Path | None = None,
        labels: Labels = NO_LABELS,
    ) -> None:
        assert pairs.ref_chosen is not None, "pairs need the log-probabilities of the start"
        super().__init__(pairs, score, batch_pairs=batch_pairs, records=records, labels=labels)
        self.own = own

    def _sides(self, scores: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        ratios = pair_logratios(scores, batch)
        return torch.stack((ratios.chosen, ratios.rejected))

    def _more(self, found: np.ndarray) -> dict[str, float]:
        """The accuracy under the method's own score: the policy's log-probability, or its mean a token."""
        if self.own == "log_ratio":
            return {}
        own = []
        for ratios, ids, known in (
            (found[0], self.pairs.chosen, self.pairs.ref_chosen),
            (found[1], self.pairs.rejected, self.pairs.ref_rejected),
        ):
            assert known is not None, "pairs come with the log-probabilities of the start"
            sums = ratios + np.add.reduceat(known.astype(np.float64), ids.offsets[:-1])
            own.append(sums / ids.lengths if self.own == "mean_logprob" else sums)
        margins = (own[0] - own[1]).round(TIE_DECIMALS)
        return {PAIR_ACCURACY_OWN: float((0.5 + 0.5 * np.sign(margins)).mean())}


class ScoreEvaluator(_Evaluator):
    """h is the score of chosen less that of rejected, by a reward model; a difference is log odds, so nats."""

    def __init__(
        self, pairs: PairSet, *, batch_pairs: int = 64, records: Path | None = None, labels: Labels = NO_LABELS
    ) -> None:
        super().__init__(pairs, pair_scores, batch_pairs=batch_pairs, records=records, labels=labels)

    def _sides(self, scores: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return scores.view(2, -1)

    def _more(self, found: np.ndarray) -> dict[str, float]:
        """Mean and standard deviation of all scores, and how they go with the completions' lengths, where both
        differ."""
        lengths = np.concatenate((self.pairs.chosen.lengths, self.pairs.rejected.lengths))
        correlation = rank_correlation(found.ravel(), lengths)
        said = {} if correlation is None else {LENGTH_CORRELATION: correlation}
        return {SCORE_MEAN: float(found.mean()), SCORE_SD: float(found.std(ddof=1)), **said}


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's rank correlation of two rows of numbers, ties at their mean rank; None where one does not vary."""
    ranks = np.stack((_ranks(first), _ranks(second)))
    if (np.ptp(ranks, axis=1) == 0).any():
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value; equal ones share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]
