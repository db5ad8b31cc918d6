"""Online direct preference optimisation (Guo et al. 2024, arXiv 2402.04792), ranked by the reward."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
import torch

from workbench.errors import DivergenceError
from workbench.trainer import distributed
from workbench.trainer.batches import Batch
from workbench.trainer.dpo_trainer import DPOTrainer
from workbench.trainer.online import OnlineTrainer
from workbench.trainer.online_dpo_settings import OnlineDPOSettings
from workbench.trainer.rollouts import Rollout, join_rollouts
from workbench.trainer.settings import TrainerSettings

MOST_ROUNDS = 50
"""Batches of prompts without a single pair before the run stops, where dead_signal_patience names no number."""


class OnlineDPOTrainer(OnlineTrainer, DPOTrainer):
    """A prompt's best and worst completion are a pair for DPO; prompts whose completions earn the same give none."""

    settings_class: ClassVar[type[TrainerSettings]] = OnlineDPOSettings

    def _make_update_batches(self, batch: Batch) -> list[Batch]:
        rollout, won, lost = self._until_a_pair(batch)
        ranks = torch.zeros(len(rollout.rewards))
        ranks[won], ranks[lost] = 1.0, -1.0
        self._report(rollout, ranks, {"pairs": float(sum(distributed.gather_objects(len(won))))})
        started = time.perf_counter()
        made = self._pair_batch(rollout, won, lost)
        self._spend("time/reference_seconds", started)
        order, parts = np.random.default_rng([self.settings.seed, self.step, 1]), self.settings.minibatches
        updates = []
        for _ in range(self.settings.passes):
            rows = order.permutation(len(won)) if parts > 1 else np.arange(len(won))
            updates += [{name: made[name][part] for name in made} for part in np.array_split(rows, parts)]
        return updates

    def _make_validation_batches(self, batch: Batch) -> list[Batch]:
        rollout = self._roll_out(batch)
        won, lost = best_and_worst(rollout)
        return [self._pair_batch(rollout, won, lost)] if won else []

    def _until_a_pair(self, batch: Batch) -> tuple[Rollout, list[int], list[int]]:
        """The rollout, and as many more as it takes until every process has a pair for each of its minibatches."""
        most = self.settings.dead_signal_patience or MOST_ROUNDS
        parts = [self._roll_out(batch)]
        while True:
            rollout = join_rollouts(parts)
            won, lost = best_and_worst(rollout)
            if not distributed.any_process(len(won) < self.settings.minibatches):
                return rollout, won, lost
            if len(parts) >= most:
                raise DivergenceError(
                    f"step {self.step + 1}: dead signal: {len(parts)} batches of prompts gave {len(won)} pairs of "
                    "different reward; start from a model that is right now and then, ask for easier prompts, or raise "
                    "group_size or temperature"
                )
            parts.append(self._roll_out(self._next_batch(), len(parts)))

    def _pair_batch(self, rollout: Rollout, won: list[int], lost: list[int]) -> Batch:
        """As DPOTrainer takes them, with the reference's log-probabilities."""
        owners = rollout.prompt_of[won]
        batch = {
            "prompt_input_ids": rollout.prompts[owners],
            "prompt_attention_mask": rollout.prompt_mask[owners],
            "chosen_input_ids": rollout.responses[won],
            "chosen_attention_mask": rollout.response_mask[won],
            "rejected_input_ids": rollout.responses[lost],
            "rejected_attention_mask": rollout.response_mask[lost],
        }
        return batch | self._score_reference(batch)

    def _sequence_lengths(self, batch: Batch) -> torch.Tensor:
        return DPOTrainer._sequence_lengths(self, batch)


def best_and_worst(rollout: Rollout) -> tuple[list[int], list[int]]:
    """Rows of the best and of the worst completion of each group whose rewards differ; the first of equal ones."""
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(rollout.groups.tolist()):
        groups.setdefault(group, []).append(row)
    rewards: list[Any] = rollout.rewards.tolist()
    won, lost = [], []
    for rows in groups.values():
        best, worst = max(rows, key=rewards.__getitem__), min(rows, key=rewards.__getitem__)
        if rewards[best] > rewards[worst]:
            won.append(best)
            lost.append(worst)
    return won, lost
