"""What every trainer that samples its own data has in common: rollouts, rewards, their record, warnings, resume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import torch

from workbench.data.chat import opened_thought
from workbench.errors import DataError, DefinitionError, DivergenceError, RewardError
from workbench.generation.costs import sampling_flops
from workbench.generation.generate import row_seed, sample
from workbench.models.flops import ModelFlops, Work
from workbench.models.told import heard_by
from workbench.objectives.masking import length_mask
from workbench.permissions import Permissions
from workbench.rewards.build import build_rewards
from workbench.rewards.keywords import as_reward_set
from workbench.rewards.reward import Reward, RewardSet, Sample, TrainerState
from workbench.tracking.values import Max, Mean, Value
from workbench.trainer import distributed
from workbench.trainer.attempt import Attempt
from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.batches import Batch
from workbench.trainer.costs import Costs
from workbench.trainer.minibatches import FRESH
from workbench.trainer.rollout_metrics import completion_rows, rollout_metrics
from workbench.trainer.rollout_settings import RolloutSettings
from workbench.trainer.rollouts import RANK_STRIDE, Rollout, rollout_made_elsewhere
from workbench.trainer.scoring import predicting_states, response_logprobs, rollout_work
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.signals import SignalWatch
from workbench.trainer.snapshot import Part
from workbench.trainer.updates import Updates

GAP = "sampling/sampling_logp_difference/mean"
GAP_TOLERANCE = {"float32": 1e-3, "bf16": 1e-1, "fp16": 1e-1}
"""Nats per token between sampler and trainer that rounding alone may give while their weights are the same."""


class OnlineTrainer(BaseTrainer):
    """Abstract. Batches are of prompts, with texts, answers and prompt_ids where rewards need them; or they bring
    completions that were made elsewhere, with their rewards.

    reward_fn: a RewardSet, or a function called as TRL calls its own. Absent, settings.rewards are built.
    """

    settings_class: ClassVar[type[TrainerSettings]] = RolloutSettings

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        self._reward_set: RewardSet | None = None
        reward_model = self.reward_model
        self._reward_flops = None if reward_model is None else ModelFlops.of_classifier(reward_model)
        self._signals = SignalWatch(self.settings.dead_signal_patience)
        return super()._set_up_model(model)

    # Rollouts.

    def _prepare_batch(self, batch: Any) -> Batch:
        """Tensors on this device; lists of texts, answers and prompt_ids as they are."""
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
        with attempt.timed("reward"):
            return self._scored(rollout, batch, attempt)

    def _sample(self, batch: Batch, attempt: Attempt, round_number: int) -> Rollout:
        """Completions of the batch's prompts by the policy as it is, without their rewards."""
        prompts, prompt_mask = batch["prompts"], batch["prompt_mask"]
        ids = [row[mask].tolist() for row, mask in zip(prompts, prompt_mask, strict=True)]
        names: list[str] = batch.get("prompt_ids", [])  # type: ignore[assignment]
        settings = self.settings
        with heard_by(None), self.precision.autocast():
            sampled = sample(
                self.policy,
                ids,
                self._sampling_seeds(names or [str(row) for row in ids], round_number),
                settings=settings.sampling,
                max_new_tokens=settings.max_new_tokens,
                eos_ids=self._eos_ids(),
                num_samples=settings.group_size,
            )
        own = sampled.lengths.view(len(ids), settings.group_size).tolist()
        flops = sampling_flops(self.flops, self.policy, ids, own, settings.max_new_tokens)
        attempt.charge(Costs(generated_tokens=int(sampled.lengths.sum()), flops=flops))
        prompt_of = torch.arange(len(ids), device=self.device).repeat_interleave(settings.group_size)
        return Rollout(
            prompts=prompts,
            prompt_mask=prompt_mask,
            prompt_of=prompt_of,
            groups=prompt_of + self.rank * RANK_STRIDE,
            responses=sampled.token_ids,
            response_mask=length_mask(sampled.lengths, sampled.token_ids.shape[1]),
            ended=sampled.ended,
            rewards=torch.zeros(len(prompt_of), dtype=torch.float64, device=self.device),
            sampled_here=True,
            sampler_logprobs=sampled.logprobs,
            # A truncated distribution is not the one that is trained: then the policy's own are computed where needed.
            old_logprobs=sampled.logprobs if settings.samples_whole_distribution else None,
            entropies=sampled.entropies,
            texts=batch.get("texts") or self._decoded(ids),  # type: ignore[arg-type]
            prompt_ids=names or [f"batch{self._batch_number}-{row}" for row in range(len(ids))],
            completions=self._decoded(self._response_ids(sampled.token_ids, sampled.lengths, sampled.ended)),
        )

    def _sampling_seeds(self, names: list[str], round_number: int) -> list[int]:
        """One a prompt: other ones at every step, and for a prompt that is met twice in a batch."""
        met: dict[str, int] = {}
        seeds = []
        for name in names:
            met[name] = met.get(name, 0) + 1
            seeds.append(row_seed(self.settings.seed, f"step {self.step} round {round_number} {met[name]} {name}"))
        return seeds

    def _scored(self, rollout: Rollout, batch: Batch, attempt: Attempt) -> Rollout:
        """With rewards. RewardError where a reward does not give one finite number a completion, or None."""
        lengths, ended = rollout.lengths.tolist(), rollout.ended.tolist()
        of_prompts: dict[str, list[Any]] = {
            name: batch.get(name) or [default] * len(rollout.texts)  # type: ignore[misc]
            for name, default in (("answers", None), ("columns", {}), ("messages", None))
        }
        state = TrainerState(self.step, self.num_steps, self._epoch(), self.is_main)
        read = [row[mask].tolist() for row, mask in zip(rollout.prompts, rollout.prompt_mask, strict=True)]
        prefills = [opened_thought(text) for text in self._decoded(read)]
        samples = [
            Sample(
                rollout.texts[prompt],
                rollout.completions[row],
                of_prompts["answers"][prompt],
                lengths[row],
                ended[row],
                self.settings.max_new_tokens,
                tuple(rollout.responses[row, : lengths[row]].tolist()),
                of_prompts["columns"][prompt] or {},
                of_prompts["messages"][prompt],
                state,
                prefills[prompt],
            )
            for row, prompt in enumerate(rollout.prompt_of.tolist())
        ]
        rewards = self.reward_set(rollout)
        with heard_by(None):
            scores = rewards.score(samples)
        for tokens, flops in rewards.take_costs():
            attempt.charge(Costs(scored_tokens=tokens, flops=flops))
        totals = torch.tensor(scores.total, dtype=torch.float64, device=self.device)
        return replace(rollout, rewards=totals, by_name=scores.by_name, extra=scores.extra, logged=scores.metrics)

    @property
    def uncounted(self) -> str:
        """Of the policy or of a model among its rewards."""
        rewards = self.reward_fn.rewards if isinstance(self.reward_fn, RewardSet) else ()
        models = [self._reward_flops] if self._reward_flops else []
        return next(filter(None, [super().uncounted, *(found.uncounted for found in (*models, *rewards))]), "")

    def _epoch(self) -> float:
        try:
            return self._batch_number / len(self.train_loader)  # type: ignore[arg-type]
        except (TypeError, ZeroDivisionError):  # a stream
            return 0.0

    def reward_set(self, rollout: Rollout | None = None) -> RewardSet:
        """reward_fn, else what settings.rewards name; and reward_model, which scores the rollout's token ids."""
        named = self.reward_fn is not None or bool(self.settings.rewards)
        if self._reward_set is None and (named or self.reward_model is None):
            entries, device = self.settings.rewards, str(self.device)
            given = self.reward_fn or build_rewards(
                entries, task=None, device=device, columns=None, permissions=Permissions.of_environment()
            )
            self._reward_set = as_reward_set(given)
        if self.reward_model is None or rollout is None:
            assert self._reward_set is not None, "a reward model scores a rollout"
            return self._reward_set
        model = self.reward_model.to(self.device).eval()
        lengths = rollout.prompt_mask.sum(1)[rollout.prompt_of] + rollout.lengths
        read = Work.of_scored(model, lengths, rollout.prompts.shape[1] + rollout.responses.shape[1])
        assert self._reward_flops is not None
        spent = (int(read.read), self._reward_flops.forward(read))
        scored = Reward("reward_model", lambda _: sequence_scores(model, rollout), take_costs=lambda: spent)
        return RewardSet([*(self._reward_set.rewards if self._reward_set else ()), scored])

    def _reference_logprobs(self, rollout: Rollout, attempt: Attempt) -> Rollout:
        """With the reference's log-probabilities, where the batch did not bring them."""
        if rollout.ref_logprobs is not None:
            return rollout
        with attempt.timed("reference"), self.reference.scoring() as reference:
            return replace(rollout, ref_logprobs=self._logprobs_under(reference, rollout, attempt))

    @torch.no_grad()
    def _logprobs_under(self, model: torch.nn.Module, rollout: Rollout, attempt: Attempt) -> torch.Tensor:
        """(N, T) of the rollout's completions, in micro-batches, charged."""
        rows = rollout.row_batch()
        size = self.micro_batch_rows or len(rows["responses"])
        parts = []
        with heard_by(None), self.precision.autocast():
            for start in range(0, len(rows["responses"]), size):
                part = {key: value[start : start + size] for key, value in rows.items()}
                parts.append(response_logprobs(predicting_states(model, part), part, self.settings.temperature))
        work = self.charges.as_cut(rows, lambda part: rollout_work(model, part))
        flops = self.flops if model is self.policy else self.charges.reference
        attempt.charge(Costs(scored_tokens=int(work.read), flops=flops.forward(work)))
        return torch.cat(parts)

    def _sequence_lengths(self, batch: Batch) -> torch.Tensor:
        return batch["prompt_mask"].sum(1) + batch["response_mask"].sum(1)

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

    def _updates_of(
        self,
        batches: list[Batch],
        attempt: Attempt,
        rollout: Rollout,
        advantages: torch.Tensor,
        metrics: dict[str, float] | None = None,
        *,
        sampled: Rollout | None = None,
        state: dict[str, Any] | None = None,
    ) -> Updates:
        """The batches with what is recorded of their rollout: its metrics, its completions with their advantages (N,).

        sampled: all that was sampled for it, where it is a choice: groups chosen for their signal all have one.
        """
        shown = self.settings.logged_prompts if self.is_main else 0
        return Updates(
            batches,
            metrics=rollout_metrics(sampled or rollout, by_group=self._compares_groups)
            | (metrics or {})
            | attempt.seconds,
            completions=completion_rows(rollout, advantages, shown),
            costs=attempt.costs,
            state=state or {},
        )

    def _with_units(self, updates: list[Batch]) -> list[Batch]:
        """The updates in which some process counts a completion; the first of them is as fresh as the rollout's was.
        DivergenceError where overlong: mask leaves none."""
        counts = distributed.gather_objects([float(update["tokens"].sum()) for update in updates])
        kept = [update for update, *found in zip(updates, *counts, strict=True) if any(found)]
        if not kept:
            raise self._all_cut()
        kept[0][FRESH] = updates[0][FRESH].max().expand(len(kept[0][FRESH])).clone()
        return kept

    def _all_cut(self) -> DivergenceError:
        """Of a rollout that overlong: mask leaves nothing of."""
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
        """Sampler and trainer must agree while their weights are the same."""
        gap, allowed = row.get(GAP, 0.0), GAP_TOLERANCE[self.precision.name]
        # What is not finite is told by the loss, and treated as non_finite says.
        if self.settings.samples_whole_distribution and gap > allowed:
            raise DivergenceError(
                f"step {self.step + 1}: sampler and trainer differ by {gap:.3g} nats a token (allowed {allowed:g}), "
                "though no update lies between them: the sampler holds other weights, another temperature or precision"
            )
        taken = sorted(name for name in row if name in self.updates.metrics)
        if taken:
            raise RewardError(f"log_metric has the name {taken[0]}, which is taken; allowed another")
        return super()._check_gradient(row)

    def _gap_metrics(self, logprobs: torch.Tensor, batch: Batch) -> dict[str, Value]:
        """How far the trainer's log-probabilities (B, T) are from the sampler's, before any update of the rollout."""
        if "sampler_logprobs" not in batch or not bool(batch[FRESH].any()):
            return {}
        mask = batch["response_mask"]
        gaps = torch.where(mask, (logprobs.detach() - batch["sampler_logprobs"]).abs(), 0.0)
        mean = Mean(gaps.sum().double(), float(mask.sum()))
        return {GAP: mean, "sampling/sampling_logp_difference/max": Max(gaps.max())}

    def _get_extra_log_info(self, batch: Batch) -> str:
        row = self.state.pending_row or {}
        return f"reward {row['reward']:.3f}" if "reward" in row else ""

    def _watch(self, row: dict[str, Any]) -> Iterable[str]:
        known = self._reward_set is not None and self.reward_model is None
        return self._signals.observe(row, self._reward_set.maximum if self._reward_set and known else None)

    def parts(self) -> dict[str, Part]:
        """Those of every trainer, and the watch over the signal."""
        return {**super().parts(), "signals": self._signals}

    # Small parts.

    def _eos_ids(self) -> tuple[int, ...]:
        if self.tokenizer is not None:
            return self.tokenizer.eos_ids
        found = getattr(getattr(self.policy, "config", None), "eos_token_id", None)
        return tuple(found) if isinstance(found, list | tuple) else () if found is None else (found,)

    def _decoded(self, rows: list[list[int]]) -> list[str]:
        if self.tokenizer is None:
            if self.reward_model is not None and self.reward_fn is None and not self.settings.rewards:
                return [""] * len(rows)  # a reward model alone scores token ids
            raise DefinitionError(f"{type(self).__name__}: rewards judge text; pass tokenizer")
        return self.tokenizer.decode_batch(rows, skip_special_tokens=False)

    @staticmethod
    def _response_ids(token_ids: torch.Tensor, lengths: torch.Tensor, ended: torch.Tensor) -> list[list[int]]:
        """Without the end-of-sequence token, which is no part of the answer's text."""
        shown = (lengths - ended.long()).tolist()
        return [row[:length] for row, length in zip(token_ids.tolist(), shown, strict=True)]


@torch.no_grad()
def sequence_scores(model: torch.nn.Module, rollout: Rollout) -> list[float]:
    """A reward model's number for each completion with its prompt: model(input_ids, attention_mask).logits[:, 0]."""
    rows = rollout.row_batch()
    ids = torch.cat((rows["prompts"], rows["responses"]), 1)
    mask = torch.cat((rows["prompt_mask"], rows["response_mask"]), 1)
    order = torch.sort((~mask).to(torch.uint8), dim=1, stable=True).indices  # real tokens first: padded on the right
    logits = model(input_ids=ids.gather(1, order), attention_mask=mask.gather(1, order).long()).logits
    if logits.ndim != 2 or logits.shape[1] != 1:
        raise DefinitionError(
            f"reward_model gives logits of {tuple(logits.shape)}; allowed one number a text (N, 1), such as "
            "transformers' AutoModelForSequenceClassification with num_labels=1"
        )
    return logits[:, 0].tolist()
