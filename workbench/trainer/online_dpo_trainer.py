"""Online direct preference optimisation (Guo et al. 2024, arXiv 2402.04792), ranked by the reward."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from workbench.models.flops import Work
from workbench.trainer import distributed
from workbench.trainer.attempt import Attempt
from workbench.trainer.batches import Batch
from workbench.trainer.dpo_trainer import DPOTrainer
from workbench.trainer.online import OnlineTrainer
from workbench.trainer.online_dpo_settings import OnlineDPOSettings
from workbench.trainer.rollouts import Rollout
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.updates import Updates


class OnlineDPOTrainer(OnlineTrainer, DPOTrainer):
    """A prompt's best and worst completion are a pair for DPO; prompts whose completions earn the same give none."""

    settings_class: ClassVar[type[TrainerSettings]] = OnlineDPOSettings

    def _make_update_batches(self, batch: Batch) -> Updates:
        attempt = Attempt()
        rollout = self._roll_out(batch, attempt)
        only_ended = self.settings.overlong == "mask"
        if not distributed.any_process(bool(rollout.ended.any()) or not only_ended):
            raise self._all_cut()
        won, lost = best_and_worst(rollout, only_ended=only_ended)
        ranks = torch.zeros(len(rollout.rewards))
        ranks[won], ranks[lost] = 1.0, -1.0
        made = self._pair_batch(rollout, won, lost, attempt)
        order, parts = np.random.default_rng([self.settings.seed, self.step, 1]), self.settings.minibatches
        batches = []
        for _ in range(self.settings.passes):
            rows = order.permutation(len(won)) if parts > 1 else np.arange(len(won))
            # A process without a pair takes its part in the step all the same: see pair_weights.
            chosen = [part if len(part) else np.array([len(won)]) for part in np.array_split(rows, parts)]
            batches += [{name: made[name][part] for name in made} for part in chosen]
        metrics = {"pairs": float(sum(distributed.gather_objects(len(won))))}
        return self._updates_of(batches, attempt, rollout, ranks, metrics)

    def _make_validation_batches(self, batch: Batch) -> list[Batch]:
        attempt = Attempt(everywhere=False)
        rollout = self._roll_out(batch, attempt)
        won, lost = best_and_worst(rollout, only_ended=self.settings.overlong == "mask")
        if not won:
            return []
        made = self._pair_batch(rollout, won, lost, attempt)
        return [{name: value[: len(won)] for name, value in made.items()}]

    def _pair_batch(self, rollout: Rollout, won: list[int], lost: list[int], attempt: Attempt) -> Batch:
        """As DPOTrainer takes them, with the reference's log-probabilities; and behind them a row of no weight."""
        weights = torch.tensor([1.0] * len(won) + [0.0], device=self.device)
        won, lost = [*won, 0], [*lost, 0]
        owners = rollout.prompt_of[won]
        batch = {
            "prompt_input_ids": rollout.prompts[owners],
            "prompt_attention_mask": rollout.prompt_mask[owners],
            "chosen_input_ids": rollout.responses[won],
            "chosen_attention_mask": rollout.response_mask[won],
            "rejected_input_ids": rollout.responses[lost],
            "rejected_attention_mask": rollout.response_mask[lost],
            "pair_weights": weights,
        }
        known = rollout.ref_logprobs
        if known is not None:
            return batch | {"ref_chosen_logprobs": known[won], "ref_rejected_logprobs": known[lost]}
        with attempt.timed("reference"):
            scored, costs = self._score_reference(batch)
        attempt.charge(costs)
        return batch | scored

    @property
    def _needs_ratios(self) -> str:
        return ""  # old log-probabilities are not used

    @property
    def _temperature(self) -> float:
        return self.settings.temperature

    def _sequence_lengths(self, batch: Batch) -> torch.Tensor:
        return DPOTrainer._sequence_lengths(self, batch)

    def _work(self, batch: Batch) -> Work:
        return DPOTrainer._work(self, batch)


def best_and_worst(rollout: Rollout, *, only_ended: bool = False) -> tuple[list[int], list[int]]:
    """Rows of the best and of the worst completion of each group whose rewards differ; the first of equal ones.

    only_ended: completions that were cut become neither.
    """
    groups: dict[int, list[int]] = {}
    for row, (group, ended) in enumerate(zip(rollout.groups.tolist(), rollout.ended.tolist(), strict=True)):
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
