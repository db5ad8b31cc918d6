"""Direct preference optimisation and its pairwise relatives (Rafailov et al. 2023, arXiv 2305.18290)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from workbench.errors import DataError
from workbench.trainer.dpo_settings import DPOSettings
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loop.updates import Updates
from workbench.trainer.loss import LossResult
from workbench.trainer.pair_training import PairTrainer
from workbench.trainer.pairs import has_reference, pairs_work
from workbench.trainer.preference import PreferenceObjective, Scores
from workbench.trainer.settings import TrainerSettings


class DPOTrainer(PairTrainer):
    """Pairwise losses on completions of one prompt, against a reference that is frozen, or moved every so many steps.

    The reference, in this order: ref_chosen_logprobs and ref_rejected_logprobs (B, L) per token in the batch;
    ref_model; the adapter switched off; a copy of the model as it was at the start. The copy alone can move.
    """

    settings_class: ClassVar[type[TrainerSettings]] = DPOSettings
    unread_arguments: ClassVar[tuple[str, ...]] = ("reward_fn", "reward_model")
    _work = PairTrainer._work  # the loss makes no pass of its own

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        self._objective = PreferenceObjective(self.settings)
        self._objective.refuse_fixed_reference(self.ref_model, model)
        return super()._set_up_model(model)

    def _prepare_batch(self, batch: Any) -> Batch:
        if self.settings.reference_moves and has_reference(batch):
            raise DataError(
                f"{self._batch_name} holds log-probabilities of a reference, and sync_reference_every moves the "
                "reference; leave ref_chosen_logprobs and ref_rejected_logprobs out"
            )
        return super()._prepare_batch(batch)

    def _make_update_batches(self, batch: Batch) -> Updates:
        if not self._objective.is_over_step:
            return Updates([batch])
        measured = self._scored(self.policy, batch, self._objective.measure, pairs_work)
        columns, state = self._objective.compared(measured, self.updates.state, everywhere=True)
        return Updates([batch | columns], state=state)

    def _make_validation_batches(self, batch: Batch) -> list[Batch]:
        if not self._objective.is_over_step:
            return [batch]
        measured = self._scored(self.policy, batch, self._objective.measure, pairs_work)
        return [batch | self._objective.compared(measured, self.updates.state, everywhere=False)[0]]

    def _count_units(self, batch: Batch) -> dict[str, float]:
        return self._objective.units(batch)

    def _forward(self, batch: Batch) -> Scores:
        return self._objective.scores(self.model, batch)

    def _compute_loss(self, outputs: Scores, batch: Batch) -> LossResult:
        return self._objective.loss(outputs, batch, is_first_step=self.step == 0)

    def _check_gradient(self, row: dict[str, float]) -> dict[str, float]:
        return self._objective.check_start(super()._check_gradient(row), self.precision.name)

    def _updated(self) -> None:
        self._objective.move_reference(self.reference, self.step)
