"""Supervised fine-tuning: cross-entropy on the completion, the prompt masked."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from workbench.errors import DataError
from workbench.models.outputs import HeadInputs, forward_to_head
from workbench.objectives.cross_entropy import IGNORED
from workbench.objectives.logprobs import projected_logprobs
from workbench.trainer.accumulation import Batch
from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.sft_settings import SFTSettings


class SFTTrainer(BaseTrainer):
    """Batches {input_ids (B, L), labels (B, L) with -100 at the prompt, attention_mask (B, L) optional}.

    The loss is the mean over the labelled tokens of the whole step, nats.
    """

    settings_class: ClassVar[type[TrainerSettings]] = SFTSettings

    def _set_up_model(self, model: torch.nn.Module) -> None:
        dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
        for module in dropouts:
            module.p = self.settings.dropout
        model.train(bool(dropouts and self.settings.dropout))

    def _prepare_batch(self, batch: Any) -> Batch:
        prepared = {key: value.to(self.device) for key, value in batch.items()}
        unlabelled = (prepared["labels"][:, 1:] == IGNORED).all(1)
        if bool(unlabelled.any()):
            rows = unlabelled.nonzero().flatten().tolist()
            raise DataError(f"batch {self.batches_taken + 1}: rows {rows[:10]} have no label to learn from (all -100)")
        return prepared

    def _count_units(self, batch: Batch) -> dict[str, float]:
        return {"cross_entropy": float((batch["labels"][:, 1:] != IGNORED).sum())}

    def _forward(self, batch: Batch) -> HeadInputs:
        return forward_to_head(self.model, batch["input_ids"], self._mask(batch))

    def _mask(self, batch: Batch) -> torch.Tensor | None:
        """None where rows are padded on the right only: causality hides that padding from every real token."""
        mask = batch.get("attention_mask")
        return mask if mask is not None and not bool(mask[:, 0].all()) else None

    def _compute_loss(self, outputs: HeadInputs, batch: Batch) -> LossResult:
        wanted = batch["labels"][:, 1:]
        kept = wanted != IGNORED
        logprobs = projected_logprobs(outputs.hidden[:, :-1][kept], outputs.weight, wanted[kept], bias=outputs.bias)
        return LossResult({"cross_entropy": LossTerm(-logprobs.sum(), float(len(logprobs)))})
