"""What every trainer of pairs has in common; whether it reads a reference is what its settings say."""

from __future__ import annotations

from typing import Any

import torch

from workbench.errors import DataError
from workbench.models.flops import Work
from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.loop.batches import Batch
from workbench.trainer.pairs import (
    has_reference,
    pairs_work,
    reference_columns,
    summed_logprobs,
    text_lengths,
    token_logprobs,
)


class PairTrainer(BaseTrainer):
    """Abstract: a method gives `_compute_loss` of the completions' summed log-probabilities, (2B,), chosen above
    rejected.

    The reference, where settings.needs_reference asks for one, is in this order: ref_chosen_logprobs and
    ref_rejected_logprobs per token in the batch; ref_model; the adapter switched off; a frozen copy of the model as it
    was at the start.
    """

    def _prepare_batch(self, batch: Any) -> Batch:
        prepared = self._checked(batch)
        for part in ("prompt", "chosen", "rejected"):
            empty = ~prepared[f"{part}_attention_mask"].bool().any(1)
            if bool(empty.any()):
                rows = empty.nonzero().flatten().tolist()
                raise DataError(f"{self._batch_name}: rows {rows[:10]} have an empty {part}; drop them")
        if not self.settings.needs_reference or has_reference(prepared):
            return prepared
        with self.reference.scoring() as reference:
            return prepared | reference_columns(self._scored(reference, prepared, token_logprobs, pairs_work), prepared)

    def _sequence_lengths(self, batch: Batch) -> torch.Tensor:
        return text_lengths(batch)

    def _work(self, batch: Batch) -> Work:
        return pairs_work(self.policy, batch)

    def _forward(self, batch: Batch) -> Any:
        return summed_logprobs(self.model, batch)
