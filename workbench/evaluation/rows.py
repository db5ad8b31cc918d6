"""Held-out rows: their cross-entropy, row by row, so that two checkpoints can be compared on the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from workbench.data.sets import IGNORED, RowSet
from workbench.evaluation.named import NO_LABELS, Labels
from workbench.models.mode import evaluation_mode
from workbench.models.outputs import forward_to_head
from workbench.objectives.logprobs import projected_logprobs
from workbench.tracking.names import HELD_OUT_LOSS
from workbench.tracking.store import MetricStore


class RowEvaluator:
    """Called as evaluator(model, step) -> metrics; appends each row's loss to `records` (losses.jsonl)."""

    def __init__(
        self, rows: RowSet, *, batch_rows: int = 64, records: Path | None = None, labels: Labels = NO_LABELS
    ) -> None:
        """batch_rows: it is about memory only, and changes no number. labels: what each recorded row says beside."""
        self.rows, self.batch_rows, self.records, self.labels = rows, batch_rows, records, labels

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module, step: int) -> dict[str, float]:
        """eval/loss: nats a learned token, over all of them."""
        nats, tokens = np.zeros(len(self.rows)), np.zeros(len(self.rows), np.int64)
        order = np.argsort(self.rows.lengths, kind="stable")
        for start in range(0, len(order), self.batch_rows):
            chosen = order[start : start + self.batch_rows]
            with evaluation_mode(model):
                nats[chosen], tokens[chosen] = self._score(model, chosen)
        if self.records is not None:
            store = MetricStore(self.records)
            try:
                store.append_many(
                    {
                        "step": step,
                        **self.labels,
                        "row_id": f"row{i}",
                        "loss_sum": float(loss),
                        "num_tokens": int(count),
                    }
                    for i, (loss, count) in enumerate(zip(nats, tokens, strict=True))
                )
            finally:
                store.close()
        return {HELD_OUT_LOSS: float(nats.sum() / tokens.sum())}

    def _score(self, model: torch.nn.Module, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(loss summed over each row's learned tokens, their number)."""
        device = next(model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in self.rows.batch(chosen).items()}
        wanted = batch["labels"][:, 1:]
        kept = wanted != IGNORED
        outputs = forward_to_head(model, batch["input_ids"], batch["attention_mask"])
        logprobs = projected_logprobs(outputs.hidden[:, :-1][kept], outputs.weight, wanted[kept], bias=outputs.bias)
        sums = torch.zeros(len(chosen), dtype=torch.float64, device=device)
        sums.index_add_(0, kept.nonzero()[:, 0], -logprobs.double())
        return sums.cpu().numpy(), kept.sum(1).cpu().numpy()
