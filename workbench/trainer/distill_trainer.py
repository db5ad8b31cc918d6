"""Distillation from a teacher: generalised knowledge distillation (Agarwal et al. 2023, arXiv 2306.13649)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import torch
from torch.nn.utils.rnn import pad_sequence

from workbench.errors import DataError, DefinitionError
from workbench.generation.costs import sampling_flops
from workbench.generation.generate import generate
from workbench.generation.sampling import SamplingSettings
from workbench.models.flops import Work
from workbench.models.outputs import HeadInputs, forward_to_head
from workbench.models.passes import input_embedding
from workbench.models.told import heard_by
from workbench.objectives.distillation import Projected, divergence_of, projected_divergence
from workbench.objectives.masking import IGNORED, length_mask
from workbench.tracking.values import Mean, Value
from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.distill_settings import DistillSettings
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loop.updates import Updates
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.online.attempt import Attempt
from workbench.trainer.online.sampler import ends_of, ids_of, sampling_seeds
from workbench.trainer.records.costs import Costs
from workbench.trainer.rows import learned, refuse_unlabelled, row_sums, rows_work
from workbench.trainer.settings import TrainerSettings

SOURCES = ("divergence/data", "divergence/student")
SAMPLES, CHOICE = 0, 1
"""What the seeds of a step's rows are for."""


class DistillTrainer(BaseTrainer):
    """The loss is the mean divergence from the teacher over the learned tokens of the whole step, nats.

    ref_model is the teacher, of any size, with the model's vocabulary. Of a step's rows a share is completed anew by
    the model itself, from what stands before the row's first label.
    """

    settings_class: ClassVar[type[TrainerSettings]] = DistillSettings
    unread_arguments: ClassVar[tuple[str, ...]] = ("reward_fn", "reward_model")

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        if self.ref_model is None and not self.settings.stores_teacher:
            raise DefinitionError(f"{type(self).__name__}: a teacher is missing; pass it as ref_model")
        own, teachers = (_vocabulary(each) for each in (model, self.ref_model or model))
        if own != teachers:
            raise DefinitionError(
                f"{type(self).__name__}: ref_model has a vocabulary of {teachers} tokens, the model one of {own}; "
                "allowed a teacher with the model's vocabulary"
            )
        self._divergence = divergence_of(self.settings.beta)
        return super()._set_up_model(model)

    # From rows to updates.

    def _prepare_batch(self, batch: Any) -> Batch:
        prepared = refuse_unlabelled(self._checked(batch), self._batch_name)
        if self.ref_model is None and "teacher_logprobs" not in prepared:
            raise DataError(f"{self._batch_name} has no teacher_logprobs; allowed with them, or with a ref_model")
        return prepared

    def _make_update_batches(self, batch: Batch) -> Updates:
        if "teacher_logprobs" in batch:
            return Updates([batch])
        attempt = Attempt()
        if self.settings.on_policy_share:
            with attempt.timed("sample"):
                batch = self._with_own_completions(batch, attempt)
        assert self.ref_model is not None, "_prepare_batch refuses rows that no teacher reads"
        work = self.charges.as_cut(batch, partial(rows_work, self.ref_model))
        attempt.charge(Costs(scored_tokens=int(work.read), flops=self.charges.reference.forward(work)))
        return Updates([batch], metrics=attempt.metrics, costs=attempt.costs)

    def _with_own_completions(self, batch: Batch, attempt: Attempt) -> Batch:
        """The batch with completions of the model as it is in the rows that are drawn.

        Which rows, and which tokens, follows from the row, the seed and the step alone, wherever the row stands.
        """
        if "position_ids" in batch:
            raise DataError(f"{self._batch_name}: packed rows hold several prompts; give rows with a mask")
        real = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        rows, labels = (ids_of(batch[name], real) for name in ("input_ids", "labels"))
        draws = sampling_seeds([str(row) for row in rows], self.settings.seed, self.step, CHOICE)
        drawn = [row for row, draw in enumerate(draws) if draw % 2**32 < self.settings.on_policy_share * 2**32]
        prompts = [_before_first_label(rows[row], labels[row]) for row in drawn]
        for row, prompt in zip(drawn, prompts, strict=True):
            if not prompt:
                raise DataError(
                    f"{self._batch_name}: row {row} has no prompt that could be completed; allowed rows with one, or "
                    "on_policy_share: 0"
                )
        for row, prompt, completion in zip(drawn, prompts, self._completions(prompts, attempt), strict=True):
            rows[row], labels[row] = prompt + completion, [IGNORED] * len(prompt) + completion
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mixed = {"input_ids": self._padded(rows, 0), "labels": self._padded(labels, IGNORED)}
        mask = length_mask(lengths, mixed["input_ids"].shape[1])
        is_sampled = torch.zeros_like(lengths, dtype=torch.bool)
        is_sampled[drawn] = True
        return {**batch, **mixed, "attention_mask": mask, "is_sampled": is_sampled}

    def _completions(self, prompts: list[list[int]], attempt: Attempt) -> list[list[int]]:
        """What the model writes to each prompt, its end included."""
        settings = self.settings
        with heard_by(None), self.precision.autocast():
            found = generate(
                self.policy,
                prompts,
                sampling_seeds([str(prompt) for prompt in prompts], settings.seed, self.step, SAMPLES),
                settings=SamplingSettings(temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k),
                max_new_tokens=settings.max_new_tokens,
                eos_ids=ends_of(self.tokenizer, self.policy),
            )
        completions = [completion.completion_ids for (completion,) in found]
        lengths = [[len(completion)] for completion in completions]
        flops = sampling_flops(self.flops, self.policy, prompts, lengths, settings.max_new_tokens)
        attempt.charge(Costs(generated_tokens=sum(map(len, completions)), flops=flops))
        return completions

    def _padded(self, rows: list[list[int]], filling: int) -> torch.Tensor:
        """(B, L), padded on the right."""
        return pad_sequence([torch.tensor(row, device=self.device) for row in rows], True, filling)

    # One update.

    def _count_units(self, batch: Batch) -> dict[str, float]:
        return {"divergence": float(learned(batch).sum())}

    def _work(self, batch: Batch) -> Work:
        return rows_work(self.policy, batch)

    def _forward(self, batch: Batch) -> HeadInputs:
        return _states(self.model, batch)

    def _compute_loss(self, outputs: HeadInputs, batch: Batch) -> LossResult:
        kept = learned(batch)
        divergences = projected_divergence(
            (outputs.hidden[:, :-1][kept], outputs.weight, outputs.bias),
            self._taught(batch, kept),
            self._divergence,
            temperature=self.settings.loss_temperature,
        )
        terms = {"divergence": LossTerm(divergences.sum(), float(len(divergences)))}
        rows = {"divergence": row_sums(divergences, kept)}
        return LossResult(terms, self._by_source(divergences.detach().double(), batch, kept), rows)

    def _taught(self, batch: Batch, kept: torch.Tensor) -> Projected:
        """What the teacher says of the learned tokens: its states with its output head, or log-probabilities, which are
        logits."""
        if "teacher_logprobs" in batch:
            return batch["teacher_logprobs"][:, 1:][kept], None, None
        with heard_by(None), self.reference.scoring() as teacher:
            found = _states(teacher, batch)
        return found.hidden[:, :-1][kept], found.weight, found.bias

    def _by_source(self, divergences: torch.Tensor, batch: Batch, kept: torch.Tensor) -> dict[str, Value]:
        """The divergence of data and of own samples, where there are both; and the share of the latter's tokens."""
        if "is_sampled" not in batch:
            return {}
        own = batch["is_sampled"][:, None].expand_as(kept)[kept]
        found: dict[str, Value] = {"own_tokens": Mean(own.sum(), len(own))}
        if self.settings.on_policy_share < 1:
            found |= {
                name: Mean(divergences[rows].sum(), rows.sum()) for name, rows in zip(SOURCES, (~own, own), strict=True)
            }
        return found

    def _check_gradient(self, row: dict[str, float]) -> dict[str, float]:
        """The row without the divergence of a source of which the step had no row."""
        kept = {name: value for name, value in row.items() if name not in SOURCES or not math.isnan(value)}
        return super()._check_gradient(kept)


def _before_first_label(ids: list[int], labels: list[int]) -> list[int]:
    return ids[: next(place for place, label in enumerate(labels) if label != IGNORED)]


def _states(model: torch.nn.Module, batch: Batch) -> HeadInputs:
    """What the output head is given at every position."""
    return forward_to_head(model, batch["input_ids"], batch.get("attention_mask"), batch.get("position_ids"))


def _vocabulary(model: torch.nn.Module) -> int | None:
    """Tokens that the model has rows for; None where it does not tell of its embedding."""
    embedding = input_embedding(model)
    return None if embedding is None else embedding.num_embeddings
