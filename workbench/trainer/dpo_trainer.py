"""Direct preference optimisation and its pairwise relatives (Rafailov et al. 2023, arXiv 2305.18290)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch.nn import functional

from workbench.errors import DataError, DivergenceError
from workbench.models.flops import Work
from workbench.models.outputs import forward_completions
from workbench.models.told import heard_by
from workbench.objectives.logprobs import projected_logprobs
from workbench.objectives.preference import PREFERENCE_LOSSES, PairLogratios
from workbench.tracking.values import Max, Mean, Value
from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.batches import Batch
from workbench.trainer.costs import Costs
from workbench.trainer.dpo_settings import DPOSettings
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.updates import Updates

# |h| per completion token that rounding alone may give while policy and reference are the same model.
START_GAP = "start_gap"
START_TOLERANCE = {"float32": 1e-4, "bf16": 2e-2, "fp16": 2e-2}


class DPOTrainer(BaseTrainer):
    """A pairwise loss on completions of one prompt, against a frozen reference.

    The reference, in this order: ref_chosen_logprobs and ref_rejected_logprobs (B, L) per token in the batch;
    ref_model; the adapter switched off; a frozen copy of the model as it was at the start.
    """

    settings_class: ClassVar[type[TrainerSettings]] = DPOSettings
    unread_arguments: ClassVar[tuple[str, ...]] = ("reward_fn", "reward_model")

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        self._loss_fn = PREFERENCE_LOSSES[self.settings.loss]
        return super()._set_up_model(model)

    def _prepare_batch(self, batch: Any) -> Batch:
        prepared = self._checked(batch)
        for part in ("prompt", "chosen", "rejected"):
            empty = ~prepared[f"{part}_attention_mask"].bool().any(1)
            if bool(empty.any()):
                rows = empty.nonzero().flatten().tolist()
                raise DataError(f"{self._batch_name}: rows {rows[:10]} have an empty {part}; drop them")
        return prepared

    def _make_update_batches(self, batch: Batch) -> Updates:
        known, costs = self._with_reference(batch)
        return Updates([known], costs=costs)

    def _make_validation_batches(self, batch: Batch) -> list[Batch]:
        return [self._with_reference(batch)[0]]

    def _count_units(self, batch: Batch) -> dict[str, float]:
        weights = _pair_weights(batch)
        units = {"preference": float(weights.sum())}
        if self.settings.nll_weight:
            units["nll"] = float((batch["chosen_attention_mask"].sum(1) * weights).sum())
        return units

    def _sequence_lengths(self, batch: Batch) -> torch.Tensor:
        prompts = batch["prompt_attention_mask"].sum(1)
        sides = [batch[f"{side}_attention_mask"].sum(1) for side in ("chosen", "rejected")]
        return torch.cat([prompts + side for side in sides])

    def _work(self, batch: Batch) -> Work:
        return completions_work(self.policy, batch)

    def _forward(self, batch: Batch) -> torch.Tensor:
        """Summed log-probabilities of the completions: chosen above rejected, (2B,)."""
        return completion_logprobs(self.model, batch, self._temperature)[0]

    @property
    def _temperature(self) -> float:
        """That of the distribution which the completions are scored under."""
        return 1.0

    def _compute_loss(self, outputs: torch.Tensor, batch: Batch) -> LossResult:
        chosen, rejected = outputs.chunk(2)
        pairs = PairLogratios(
            chosen - _masked_sum(batch, "chosen"),
            rejected - _masked_sum(batch, "rejected"),
            batch["chosen_attention_mask"].sum(1),
            batch["rejected_attention_mask"].sum(1),
        )
        beta, weights = self.settings.beta, _pair_weights(batch)
        count = float(weights.sum())
        losses = self._loss_fn(pairs, beta, self.settings.label_smoothing)
        terms = {"preference": LossTerm((losses * weights).sum(), count)}
        if self.settings.nll_weight:
            num_tokens = float((pairs.chosen_lengths * weights).sum())
            terms["nll"] = LossTerm(-(chosen * weights).sum(), num_tokens, self.settings.nll_weight)
        h = pairs.h.detach()
        wins = (h > 0).double() + 0.5 * (h == 0).double()
        means = {
            "rewards/chosen": beta * pairs.chosen.detach(),
            "rewards/rejected": beta * pairs.rejected.detach(),
            "rewards/margins": beta * h,
            "rewards/accuracies": wins,
            "logps/chosen": chosen.detach(),
            "logps/rejected": rejected.detach(),
        }
        metrics: dict[str, Value] = {
            name: Mean((value * weights).sum().double(), count) for name, value in means.items()
        }
        if self.step == 0 and self.settings.starts_from_reference and torch.is_grad_enabled():
            gaps = h.abs() / (pairs.chosen_lengths + pairs.rejected_lengths)
            metrics[START_GAP] = Max(gaps.max())
        return LossResult(terms, metrics)

    def _check_gradient(self, row: dict[str, float]) -> dict[str, float]:
        """Checks that h is 0 up to rounding at the first step, where policy and reference are still the same model."""
        gap = row.pop(START_GAP, 0.0)
        allowed = START_TOLERANCE[self.precision.name]
        if not gap <= allowed:
            raise DivergenceError(
                f"step 1: policy and reference differ by {gap:.3g} nats per completion token (allowed {allowed:g}), "
                "though the run starts from its reference: the reference log-probs are of another model, tokenizer or "
                "precision; set starts_from_reference: false only where the reference is meant to be another model"
            )
        return row

    # The reference.

    def _with_reference(self, batch: Batch) -> tuple[Batch, Costs]:
        """With the reference's log-probabilities where they are needed, and what it cost to score them."""
        if not self.settings.needs_reference or "ref_chosen_logprobs" in batch:
            return batch, Costs()
        scored, costs = self._score_reference(batch)
        return batch | scored, costs

    def _score_reference(self, batch: Batch) -> tuple[Batch, Costs]:
        with heard_by(None), self.reference.scoring() as reference, self.precision.autocast():
            _, chosen, rejected = completion_logprobs(reference, batch, self._temperature)
        work = completions_work(self.ref_model or self.policy, batch)  # scored in one call, not in micro-batches
        costs = Costs(scored_tokens=int(work.read), flops=self.charges.reference.forward(work))
        return {"ref_chosen_logprobs": chosen, "ref_rejected_logprobs": rejected}, costs


def completion_logprobs(
    model: torch.nn.Module, batch: Batch, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Chosen and rejected in one forward: sums (2B,), and per token (B, Lc) and (B, Lr), 0 at padding; float32."""
    ids, masks = (
        [batch[f"{side}_{part}"] for side in ("chosen", "rejected")] for part in ("input_ids", "attention_mask")
    )
    widths = [part.shape[1] for part in ids]
    padded_ids, padded_masks = (
        torch.cat([functional.pad(part, (0, max(widths) - part.shape[1])) for part in parts]) for parts in (ids, masks)
    )
    mask = padded_masks.bool()
    prompt_of = torch.arange(len(ids[0]), device=mask.device).repeat(2)
    outputs = forward_completions(
        model, batch["prompt_input_ids"], batch["prompt_attention_mask"], padded_ids, mask, prompt_of
    )
    found = projected_logprobs(
        outputs.hidden, outputs.weight, padded_ids[mask], bias=outputs.bias, temperature=temperature
    )
    logprobs = found.new_zeros(mask.shape).masked_scatter(mask, found)
    chosen, rejected = (part[:, :width] for part, width in zip(logprobs.chunk(2), widths, strict=True))
    return logprobs.sum(1), chosen, rejected


def completions_work(model: torch.nn.Module, batch: Batch) -> Work:
    """What completion_logprobs computes of a batch."""
    prompts, chosen, rejected = (batch[f"{part}_attention_mask"].sum(1) for part in ("prompt", "chosen", "rejected"))
    prompt_of = torch.arange(len(prompts), device=prompts.device).repeat(2)
    return Work.of_completions(model, prompts, torch.cat((chosen, rejected)), prompt_of)


def _pair_weights(batch: Batch) -> torch.Tensor:
    """(B,) how much each pair counts: 1, or 0 where it only stands for there being none."""
    first = batch["prompt_input_ids"]
    return batch.get("pair_weights", torch.ones(len(first), device=first.device))


def _masked_sum(batch: Batch, side: str) -> torch.Tensor:
    return (batch[f"ref_{side}_logprobs"] * batch[f"{side}_attention_mask"]).sum(1)
