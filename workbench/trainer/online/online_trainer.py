"""What every trainer that samples its own data has in common: rollouts, rewards, their record, warnings, resume."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from workbench.errors import DataError, DivergenceError, RewardError
from workbench.generation.costs import sampling_flops
from workbench.generation.generate import sample
from workbench.models.flops import Work
from workbench.models.told import heard_by
from workbench.objectives.masking import length_mask
from workbench.rewards.reward import TrainerState
from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loop.sources import LOSS_WEIGHT, ROW, SOURCE
from workbench.trainer.loop.updates import Updates
from workbench.trainer.online.attempt import Attempt
from workbench.trainer.online.judge import Judge
from workbench.trainer.online.lesson import Lesson
from workbench.trainer.online.metrics import REWARD, completion_rows, earned_by_row, rollout_metrics
from workbench.trainer.online.rollout import RANK_STRIDE, Rollout, rollout_made_elsewhere
from workbench.trainer.online.sampler import ends_of, ids_of, judged_ids, sampling_seeds
from workbench.trainer.online.scoring import rollout_work, sampled_logprobs
from workbench.trainer.online.settings import RolloutSettings
from workbench.trainer.online.signals import SignalWatch
from workbench.trainer.records.costs import Costs
from workbench.trainer.records.snapshot import Part
from workbench.trainer.settings import TrainerSettings


class OnlineTrainer(BaseTrainer):
    """Abstract: a method says what it makes of a rollout (`_learn`) and how that is cut into updates (`_cut`).

    Batches are of prompts, with texts, answers and prompt_ids where rewards need them; or they bring completions that
    were made elsewhere, with their rewards. reward_fn: a RewardSet, or a function called as TRL calls its own. Absent,
    settings.rewards are built.
    """

    settings_class: ClassVar[type[TrainerSettings]] = RolloutSettings

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        self._judge = Judge(
            self.settings,
            reward_fn=self.reward_fn,
            reward_model=self.reward_model,
            tokenizer=self.tokenizer,
            device=self.device,
        )
        self._signals = SignalWatch(self.settings.dead_signal_patience)
        return super()._set_up_model(model)

    # From prompts to updates.

    @abc.abstractmethod
    def _learn(self, rollout: Rollout, attempt: Attempt) -> Lesson:
        """What the method makes of a rollout with its rewards; the trainer stays as it is."""

    @abc.abstractmethod
    def _cut(self, lesson: Lesson, attempt: Attempt) -> list[Batch]:
        """The lesson's rows as the batches of the attempt's passes and minibatches."""

    def _make_update_batches(self, batch: Batch) -> Updates:
        attempt = Attempt(self.settings.passes, self.settings.minibatches)
        rollout, sampled = self._sampled(batch, attempt)
        lesson = self._learn(rollout, attempt)
        batches = self._cut(lesson, attempt)
        shown = self.settings.logged_prompts if self.is_main else 0
        return Updates(
            batches,
            metrics=rollout_metrics(sampled, self.feed.sources.name, by_group=self._compares_groups) | attempt.metrics,
            completions=completion_rows(lesson.rollout, lesson.shown_advantages(), shown),
            costs=attempt.costs,
            state=lesson.state,
            earned=earned_by_row(sampled),
        )

    def _make_validation_batches(self, batch: Batch) -> list[Batch]:
        attempt = Attempt(everywhere=False)
        return self._cut(self._learn(self._roll_out(batch, attempt), attempt), attempt)

    def _sampled(self, batch: Batch, attempt: Attempt) -> tuple[Rollout, Rollout]:
        """What a step learns from, and all that was sampled for it, which is what metrics are of."""
        rollout = self._roll_out(batch, attempt)
        return rollout, rollout

    def _order(self, purpose: int) -> np.random.Generator:
        """What shuffles this step's rollout; another one for each purpose."""
        return np.random.default_rng([self.settings.seed, self.step, purpose])

    # Rollouts.

    def _prepare_batch(self, batch: Any) -> Batch:
        """Puts tensors on this device, and leaves lists of texts, answers and prompt_ids as they are."""
        prepared = self._checked(batch)
        prompts = prepared["prompts"]
        prepared["prompt_mask"] = prepared.get("prompt_mask", torch.ones_like(prompts, dtype=torch.bool)).bool()
        empty = ~prepared["prompt_mask"].any(1)
        if bool(empty.any()):
            rows = empty.nonzero().flatten().tolist()
            raise DataError(f"{self._batch_name}: rows {rows[:10]} have an empty prompt; drop them")
        return prepared

    def _roll_out(self, batch: Batch, attempt: Attempt, round_number: int = 0) -> Rollout:
        """The batch's completions with their rewards: sampled and scored here, or as they were made elsewhere."""
        if "responses" in batch:
            return rollout_made_elsewhere(batch, self._batch_number, self.rank, needs_ratios=self._needs_ratios)
        with attempt.timed("sample"):
            rollout = self._sample(batch, attempt, round_number)
        state = TrainerState(self.step, self.num_steps, self._epoch(), self.is_main)
        with attempt.timed("reward"):
            return self._judge.score(rollout, batch, state, attempt)

    def _sample(self, batch: Batch, attempt: Attempt, round_number: int) -> Rollout:
        """Completions of the batch's prompts by the policy as it is, without their rewards."""
        prompts, prompt_mask = batch["prompts"], batch["prompt_mask"]
        ids = ids_of(prompts, prompt_mask)
        names: list[str] = batch.get("prompt_ids", [])  # type: ignore[assignment]
        settings = self.settings
        with heard_by(None), self.precision.autocast():
            sampled = sample(
                self.policy,
                ids,
                sampling_seeds(names or [str(row) for row in ids], settings.seed, self.step, round_number),
                settings=settings.sampling,
                max_new_tokens=settings.max_new_tokens,
                eos_ids=ends_of(self.tokenizer, self.policy),
                num_samples=settings.group_size,
            )
        own = sampled.lengths.view(len(ids), settings.group_size).tolist()
        flops = sampling_flops(self.flops, self.policy, ids, own, settings.max_new_tokens)
        attempt.charge(Costs(generated_tokens=int(sampled.lengths.sum()), flops=flops))
        prompt_index = torch.arange(len(ids), device=self.device).repeat_interleave(settings.group_size)
        return Rollout(
            prompts=prompts,
            prompt_mask=prompt_mask,
            prompt_index=prompt_index,
            group_ids=prompt_index + self.rank * RANK_STRIDE,
            completion_ids=sampled.completion_ids,
            completion_mask=length_mask(sampled.lengths, sampled.completion_ids.shape[1]),
            ended=sampled.ended,
            rewards=torch.zeros(len(prompt_index), dtype=torch.float64, device=self.device),
            sampled_here=True,
            sampler_logprobs=sampled.logprobs,
            # A truncated distribution is not the one that is trained; the policy's own are then computed where needed.
            old_logprobs=sampled.logprobs if settings.samples_whole_distribution else None,
            entropies=sampled.entropies,
            of_prompt={name: batch[name] for name in (SOURCE, LOSS_WEIGHT, ROW) if name in batch},
            texts=batch.get("texts") or self._judge.texts(ids),  # type: ignore[arg-type]
            prompt_ids=names or [f"batch{self._batch_number}-{row}" for row in range(len(ids))],
            completions=self._judge.texts(judged_ids(sampled.completion_ids, sampled.lengths, sampled.ended)),
        )

    @property
    def uncounted(self) -> str:
        """Why the FLOPs of the policy, or of a model among its rewards, are not counted; empty: they are."""
        return super().uncounted or self._judge.uncounted

    def _epoch(self) -> float:
        try:
            return self._batch_number / len(self.train_loader)  # type: ignore[arg-type]
        except (TypeError, ZeroDivisionError):  # a stream
            return 0.0

    def _reference_logprobs(self, rollout: Rollout, attempt: Attempt) -> Rollout:
        """The rollout with the reference's log-probabilities; they are computed where the batch did not bring them."""
        if rollout.ref_logprobs is not None:
            return rollout
        with attempt.timed("reference"), self.reference.scoring() as reference:
            return replace(rollout, ref_logprobs=self._logprobs_under(reference, rollout))

    def _logprobs_under(self, model: torch.nn.Module, rollout: Rollout) -> torch.Tensor:
        """(N, T) log-probabilities of the rollout's completions."""
        return self._scored(
            model, rollout.row_batch(), partial(sampled_logprobs, temperature=self.settings.temperature), rollout_work
        )

    def _sequence_lengths(self, batch: Batch) -> torch.Tensor:
        return batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)

    def _work(self, batch: Batch) -> Work:
        return rollout_work(self.policy, batch)

    @property
    def _needs_ratios(self) -> str:
        """What takes ratios of single tokens, so that old_logprobs may not be one sum a completion; empty: nothing."""
        return f"{type(self).__name__}"

    @property
    def _compares_groups(self) -> bool:
        """Whether a completion's reward means something only beside those of its group."""
        return True

    def _all_cut(self) -> DivergenceError:
        """The error for a rollout of which overlong: mask leaves nothing."""
        return DivergenceError(
            f"step {self.step + 1}: all completions of the rollout were cut at max_new_tokens "
            f"{self.settings.max_new_tokens}, and overlong: mask leaves none to learn from; raise max_new_tokens, "
            "or take overlong: keep"
        )

    def _plan_steps(self) -> int:
        """Epochs count batches of prompts, each of which gives several steps."""
        steps = super()._plan_steps()
        return steps if self.settings.steps is not None else steps * self.settings.updates_per_rollout

    @property
    def _smallest_share(self) -> int:
        return self.settings.minibatches  # each of them has a prompt

    # Hooks.

    def _check_gradient(self, row: dict[str, float]) -> dict[str, float]:
        taken = sorted(name for name in row if name in self.updates.metrics)
        if taken:
            raise RewardError(f"log_metric has the name {taken[0]}, which is taken; allowed another")
        return super()._check_gradient(row)

    def _get_extra_config_info(self) -> dict[str, Any]:
        return super()._get_extra_config_info() | self._judge.described()

    def _get_extra_log_info(self, batch: Batch) -> str:
        row = self.state.pending_row or {}
        return f"reward {row[REWARD]:.3f}" if REWARD in row else ""

    def _watch(self, row: dict[str, Any]) -> Iterable[str]:
        return self._signals.observe(row, self._judge.maximum)

    def parts(self) -> dict[str, Part]:
        """The parts of every trainer, and the watch over the signal."""
        return {**super().parts(), "signals": self._signals}
