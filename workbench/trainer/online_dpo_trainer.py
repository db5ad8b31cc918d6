"""Online direct preference optimisation (Guo et al. 2024, arXiv 2402.04792), ranked by the reward."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from workbench.errors import DataError
from workbench.models.flops import Work
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult
from workbench.trainer.online.attempt import Attempt
from workbench.trainer.online.lesson import Lesson
from workbench.trainer.online.metrics import PAIRS
from workbench.trainer.online.minibatches import shuffled_parts
from workbench.trainer.online.online_trainer import OnlineTrainer
from workbench.trainer.online.rollout import Rollout
from workbench.trainer.online_dpo_settings import OnlineDPOSettings
from workbench.trainer.pairs import pairs_work, reference_columns, text_lengths, token_logprobs
from workbench.trainer.preference import PreferenceObjective, Scores
from workbench.trainer.settings import TrainerSettings


class OnlineDPOTrainer(OnlineTrainer):
    """A prompt's best and worst completion are a pair for DPO; prompts whose completions earn the same give none."""

    settings_class: ClassVar[type[TrainerSettings]] = OnlineDPOSettings

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        self._objective = PreferenceObjective(self.settings)
        self._objective.refuse_fixed_reference(self.ref_model, model)
        return super()._set_up_model(model)

    # From prompts to updates.

    def _learn(self, rollout: Rollout, attempt: Attempt) -> Lesson:
        only_ended = self.settings.overlong == "mask"
        if attempt.everywhere and not any(attempt.gather(bool(rollout.ended.any()) or not only_ended)):
            raise self._all_cut()
        won, lost = best_and_worst(rollout, only_ended=only_ended)
        ranks = torch.zeros(len(rollout.rewards))
        ranks[won], ranks[lost] = 1.0, -1.0
        attempt.metrics[PAIRS] = float(sum(attempt.gather(len(won))))
        return Lesson(rollout, ranks, self._pair_batch(rollout, won, lost, attempt))

    def _cut(self, lesson: Lesson, attempt: Attempt) -> list[Batch]:
        num_pairs = len(lesson.rows["pair_weights"]) - 1
        parts = shuffled_parts(num_pairs, attempt.passes, attempt.minibatches, self._order(1))
        if attempt.everywhere:
            # A process without a pair takes part in the step all the same, with the row of no weight.
            parts = [part if len(part) else np.array([num_pairs]) for part in parts]
        return [{name: value[part] for name, value in lesson.rows.items()} for part in parts if len(part)]

    def _pair_batch(self, rollout: Rollout, won: list[int], lost: list[int], attempt: Attempt) -> Batch:
        """These rows as pairs, with the reference's log-probabilities; and behind them a row of no weight."""
        weights = torch.tensor([1.0] * len(won) + [0.0], device=self.device)
        won, lost = [*won, 0], [*lost, 0]
        owners = rollout.prompt_index[won]
        batch = {
            "prompt_input_ids": rollout.prompts[owners],
            "prompt_attention_mask": rollout.prompt_mask[owners],
            "chosen_input_ids": rollout.completion_ids[won],
            "chosen_attention_mask": rollout.completion_mask[won],
            "rejected_input_ids": rollout.completion_ids[lost],
            "rejected_attention_mask": rollout.completion_mask[lost],
            "pair_weights": weights,
            **{name: values[owners] for name, values in rollout.of_prompt.items()},
        }
        known = rollout.ref_logprobs
        if known is not None and self.settings.reference_moves:
            raise DataError(
                f"batch {self._batch_number} holds log-probabilities of a reference, and sync_reference_every moves "
                "the reference; leave ref_logprobs out"
            )
        if known is not None:
            return batch | {"ref_chosen_logprobs": known[won], "ref_rejected_logprobs": known[lost]}
        score = partial(token_logprobs, temperature=self.settings.temperature)
        with attempt.timed("reference"), self.reference.scoring() as reference:
            return batch | reference_columns(self._scored(reference, batch, score, pairs_work), batch)

    @property
    def _needs_ratios(self) -> str:
        return ""  # old log-probabilities are not used

    # One update.

    def _count_units(self, batch: Batch) -> dict[str, float]:
        return self._objective.units(batch)

    def _sequence_lengths(self, batch: Batch) -> torch.Tensor:
        return text_lengths(batch)

    def _work(self, batch: Batch) -> Work:
        return pairs_work(self.policy, batch)

    def _forward(self, batch: Batch) -> Scores:
        return self._objective.scores(self.model, batch, self.settings.temperature)

    def _compute_loss(self, outputs: Scores, batch: Batch) -> LossResult:
        return self._objective.loss(outputs, batch, is_first_step=self.step == 0)

    def _check_gradient(self, row: dict[str, float]) -> dict[str, float]:
        return self._objective.check_start(super()._check_gradient(row), self.precision.name)

    def _updated(self) -> None:
        self._objective.move_reference(self.reference, self.step)


def best_and_worst(rollout: Rollout, *, only_ended: bool = False) -> tuple[list[int], list[int]]:
    """Rows of the best and of the worst completion of each group whose rewards differ; the first of equal ones.

    only_ended: completions that were cut become neither.
    """
    groups: dict[int, list[int]] = {}
    for row, (group, ended) in enumerate(zip(rollout.group_ids.tolist(), rollout.ended.tolist(), strict=True)):
        if ended or not only_ended:
            groups.setdefault(group, []).append(row)
    rewards: list[Any] = rollout.rewards.tolist()
    won, lost = [], []
    for rows in groups.values():
        best, worst = max(rows, key=rewards.__getitem__), min(rows, key=rewards.__getitem__)
        if rewards[best] > rewards[worst]:
            won.append(best)
            lost.append(worst)
    return won, lost
