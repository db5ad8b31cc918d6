"""Supervised fine-tuning: cross-entropy on the completion, the prompt masked."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from workbench.errors import DataError
from workbench.models.flops import Work
from workbench.models.outputs import HeadInputs, forward_to_head
from workbench.objectives.logprobs import projected_logprobs
from workbench.objectives.masking import IGNORED
from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult, LossTerm
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
        prepared = self._checked(batch)
        unlabelled = (_wanted(prepared) == IGNORED).all(1)
        if bool(unlabelled.any()):
            rows = unlabelled.nonzero().flatten().tolist()
            raise DataError(f"{self._batch_name}: rows {rows[:10]} have no label to learn from (all -100)")
        return prepared

    def _count_units(self, batch: Batch) -> dict[str, float]:
        return {"cross_entropy": float((_wanted(batch) != IGNORED).sum())}

    def _work(self, batch: Batch) -> Work:
        projected = float((_wanted(batch) != IGNORED).sum())
        positions = batch.get("position_ids")
        if positions is None:
            width = batch["input_ids"].shape[1]
            return Work.of_rows(self._sequence_lengths(batch), projected, self.policy, width)
        return Work.of_packed(positions, projected, self.policy)

    def _forward(self, batch: Batch) -> HeadInputs:
        return forward_to_head(self.model, batch["input_ids"], batch.get("attention_mask"), batch.get("position_ids"))

    def _compute_loss(self, outputs: HeadInputs, batch: Batch) -> LossResult:
        wanted = _wanted(batch)
        kept = wanted != IGNORED
        logprobs = projected_logprobs(outputs.hidden[:, :-1][kept], outputs.weight, wanted[kept], bias=outputs.bias)
        return LossResult({"cross_entropy": LossTerm(-logprobs.sum(), float(len(logprobs)))})


def _wanted(batch: Batch) -> torch.Tensor:
    """(B, L - 1): the label of each position's next token; -100 where the position is no part of the same text."""
    wanted, mask, positions = batch["labels"][:, 1:], batch.get("attention_mask"), batch.get("position_ids")
    if positions is not None:
        return wanted.masked_fill(positions[:, 1:] == 0, IGNORED)
    # A left-padded row's first token has nothing before it to be predicted from.
    return wanted if mask is None else wanted.masked_fill(~mask[:, :-1].bool(), IGNORED)
