"""Supervised fine-tuning: cross-entropy on the completion, the prompt masked."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from workbench.models.flops import Work
from workbench.models.outputs import HeadInputs, forward_to_head
from workbench.objectives.logprobs import projected_logprobs
from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.rows import learned, refuse_unlabelled, row_sums, rows_work, wanted_labels
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.sft_settings import SFTSettings


class SFTTrainer(BaseTrainer):
    """The loss is the mean over the labelled tokens of the whole step, nats.

    Packed rows come with position_ids instead of a mask: positions that restart at 0 with each text.
    """

    settings_class: ClassVar[type[TrainerSettings]] = SFTSettings
    unread_arguments: ClassVar[tuple[str, ...]] = ("ref_model", "reward_fn", "reward_model")

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        named = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout)]
        for name, module in named:
            if "lora_dropout" not in name:  # an adapter's dropout is a setting of its own
                module.p = self.settings.dropout
        return model.train(any(module.p > 0 for _, module in named))

    def _prepare_batch(self, batch: Any) -> Batch:
        return refuse_unlabelled(self._checked(batch), self._batch_name)

    def _count_units(self, batch: Batch) -> dict[str, float]:
        return {"cross_entropy": float(learned(batch).sum())}

    def _work(self, batch: Batch) -> Work:
        return rows_work(self.policy, batch)

    def _forward(self, batch: Batch) -> HeadInputs:
        return forward_to_head(self.model, batch["input_ids"], batch.get("attention_mask"), batch.get("position_ids"))

    def _compute_loss(self, outputs: HeadInputs, batch: Batch) -> LossResult:
        wanted, kept = wanted_labels(batch), learned(batch)
        logprobs = projected_logprobs(outputs.hidden[:, :-1][kept], outputs.weight, wanted[kept], bias=outputs.bias)
        terms = {"cross_entropy": LossTerm(-logprobs.sum(), float(len(logprobs)))}
        return LossResult(terms, rows={"cross_entropy": row_sums(-logprobs, kept)})
