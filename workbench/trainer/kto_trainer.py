"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch

from workbench.data.forms.judged import JudgedSet
from workbench.errors import DataError
from workbench.models.flops import Work
from workbench.models.passes import config_field
from workbench.models.positions import find_positions
from workbench.objectives.kto import MOST_BALANCED, balance, kto_losses, mismatched_divergence
from workbench.tracking.values import Mean, Value
from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.kto_settings import KTOSettings
from workbench.trainer.labelled_rows import Text, of_another_prompt, row_logprobs, texts_of, with_completions
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult, LossTerm, RowSums
from workbench.trainer.machine import distributed
from workbench.trainer.rows import refuse_unlabelled, rows_work
from workbench.trainer.settings import TrainerSettings


class KTOTrainer(BaseTrainer):
    """Completions that are wanted or not, each by itself, against a frozen reference.

    The reference is ref_model, or the adapter switched off, or a frozen copy of the model as it was at the start.
    """

    settings_class: ClassVar[type[TrainerSettings]] = KTOSettings
    unread_arguments: ClassVar[tuple[str, ...]] = ("reward_fn", "reward_model")

    @property
    def _smallest_share(self) -> int:
        """One process alone needs two rows, so that a completion can follow another prompt."""
        return 1 if self.is_distributed else 2

    def _prepare_batch(self, batch: Any) -> Batch:
        prepared = self._checked(batch)
        if "position_ids" in prepared:
            raise DataError(f"{self._batch_name}: rows are packed (position_ids), allowed one completion a row")
        return refuse_unlabelled(prepared, self._batch_name)

    def _make_update_batches(self, batch: Batch) -> list[Batch]:
        shares = distributed.gather_objects(texts_of(batch))
        if sum(map(len, shares)) < 2:
            raise DataError(
                f"{self._batch_name} has one row, allowed two or more: the KL is that of completions behind another "
                "row's prompt"
            )
        logratios, batch = self._against_reference(batch, shares, self.rank)
        gathered = distributed.gather_objects((float(logratios.sum()), len(logratios)))
        return [self._with_divergence(batch, gathered)]

    def _make_validation_batches(self, batch: Batch) -> list[Batch]:
        """Each process has held-out batches of its own, and their KL is their own; that of a single row is 0."""
        shares = [texts_of(batch)]
        logratios, batch = self._against_reference(batch, shares, 0)
        return [self._with_divergence(batch, [(float(logratios.sum()), len(logratios))] if len(shares[0]) > 1 else [])]

    def _against_reference(self, batch: Batch, shares: list[list[Text]], rank: int) -> tuple[torch.Tensor, Batch]:
        """(B,) log ratios of the prompts with completions of others, float64; and the batch with the reference's sums
        (B,). shares: the texts of the whole step by process, whose rows lie in turn."""
        places = sorted((index, owner) for owner, share in enumerate(shares) for index in range(len(share)))
        taken = of_another_prompt([shares[owner][index] for index, owner in places])
        own_rows = [completion for (_, owner), completion in zip(places, taken, strict=True) if owner == rank]
        mismatched = with_completions(batch, own_rows, self._most_tokens)
        with self.reference.scoring() as reference:
            ref_sums = self._scored(reference, batch, row_logprobs, rows_work)
            tied = self._scored(reference, mismatched, row_logprobs, rows_work)
        own = self._scored(self.policy, mismatched, row_logprobs, rows_work)
        return own.double() - tied.double(), batch | {"ref_sums": ref_sums}

    @property
    def _most_tokens(self) -> int | None:
        """Tokens that the model has positions for; None where any number will do, or it does not tell."""
        config = config_field(self.policy, "config")
        positions = find_positions(config.to_dict()) if hasattr(config, "to_dict") else None
        return positions.most if positions is not None else None

    def _with_divergence(self, batch: Batch, gathered: list[tuple[float, int]]) -> Batch:
        divergence = mismatched_divergence(sum(total for total, _ in gathered), sum(count for _, count in gathered))
        return batch | {"divergence": torch.full_like(batch["ref_sums"], divergence)}

    def _work(self, batch: Batch) -> Work:
        return rows_work(self.policy, batch)

    def _forward(self, batch: Batch) -> torch.Tensor:
        return row_logprobs(self.model, batch)

    def _compute_loss(self, outputs: torch.Tensor, batch: Batch) -> LossResult:
        settings, wanted = self.settings, batch["desirable"].bool()
        logratios, divergence = outputs - batch["ref_sums"], batch["divergence"]
        losses = kto_losses(
            logratios,
            wanted,
            divergence,
            beta=settings.beta,
            desirable_weight=settings.desirable_weight,
            undesirable_weight=settings.undesirable_weight,
        )
        metrics: dict[str, Value] = {"kl_mismatched": Mean(divergence.sum().double(), len(divergence))}
        by_row = {"kto": RowSums(losses, torch.ones_like(losses))}
        told = {"rewards": settings.beta * logratios.detach(), "logps": outputs.detach()}
        for side, rows in (("chosen", wanted), ("rejected", ~wanted)):
            each, count = {f"{name}/{side}": values for name, values in told.items()}, int(rows.sum())
            if count:
                metrics |= {name: Mean(values[rows].sum().double(), count) for name, values in each.items()}
            by_row |= RowSums.weighted(each, rows.to(losses.dtype))
        return LossResult({"kto": LossTerm(losses.sum(), len(losses))}, metrics, by_row)

    def _check_gradient(self, row: dict[str, float]) -> dict[str, float]:
        """Adds the margin between the means of wanted and unwanted rows, where the step has both."""
        checked = super()._check_gradient(row)
        sides = [checked.get(f"rewards/{side}") for side in ("chosen", "rejected")]
        return checked if None in sides else checked | {"rewards/margins": sides[0] - sides[1]}  # type: ignore[operator]

    def _watch(self, row: dict[str, Any]) -> Iterable[str]:
        yield from super()._watch(row)
        data = getattr(self.train_loader, "data", None)
        if row["step"] > 1 or not isinstance(data, JudgedSet):
            return
        wanted, settings = int(data.values.sum()), self.settings
        unwanted = len(data) - wanted
        if not (wanted and unwanted):
            return
        found = balance(wanted, unwanted, settings.desirable_weight, settings.undesirable_weight)
        if not 0.999 <= found <= 1.001 * MOST_BALANCED:
            low = settings.undesirable_weight * unwanted / wanted
            yield (
                f"{wanted:,} rows are wanted and {unwanted:,} are not, and with their weights that is {found:.3g} to "
                f"1; 1 to {MOST_BALANCED:.3g} is advised: desirable_weight from {low:.3g} to {low * MOST_BALANCED:.3g}"
            )
