"""Odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from workbench.objectives.reference_free import PairSums, log_odds_ratio, margin_loss
from workbench.trainer.loop.batches import Batch
from workbench.trainer.orpo_settings import ORPOSettings
from workbench.trainer.pairs import SIDES, completion_logprobs
from workbench.trainer.reference_free import Preference, ReferenceFreeTrainer
from workbench.trainer.settings import TrainerSettings


class ORPOTrainer(ReferenceFreeTrainer):
    """The likelihood of the chosen completion, and its odds against those of the rejected one.

    Where the likelihood is the prompt's too, prompts are read as a part of the completions behind their first token,
    and `<side>_response_mask` tells the responses apart.
    """

    settings_class: ClassVar[type[TrainerSettings]] = ORPOSettings
    unread_arguments: ClassVar[tuple[str, ...]] = ("ref_model", "reward_fn", "reward_model")
    _work = ReferenceFreeTrainer._work  # the loss makes no pass of its own

    def _prepare_batch(self, batch: Any) -> Batch:
        prepared = super()._prepare_batch(batch)
        return prepared if self.settings.nll_over == "response" else behind_first_token(prepared)

    def _forward(self, batch: Batch) -> torch.Tensor:
        """(2B,) over the responses, chosen above rejected; behind them, where prompts are learned too, (B,) over the
        chosen texts."""
        if self.settings.nll_over == "response":
            return super()._forward(batch)
        whole, *sides = completion_logprobs(self.model, batch)
        responses = [
            (logprobs * batch[f"{side}_response_mask"]).sum(1) for side, logprobs in zip(SIDES, sides, strict=True)
        ]
        return torch.cat([*responses, whole.chunk(2)[0]])

    def _lengths(self, batch: Batch, side: str) -> torch.Tensor:
        return batch.get(f"{side}_response_mask", batch[f"{side}_attention_mask"]).sum(1)

    def _prefer(self, pairs: PairSums) -> Preference:
        beta, ratios = self.settings.beta, log_odds_ratio(pairs)
        losses, (chosen, rejected) = margin_loss(ratios), pairs.means
        own = {"log_odds_chosen": ratios, "log_odds_ratio": -losses}
        return Preference(beta * losses, beta * chosen, beta * rejected, own)


def behind_first_token(batch: Batch) -> Batch:
    """The same texts with prompts of one token: what followed it stands before each completion.

    Padding may then stand anywhere in a completion. <side>_response_mask: (B, L), true at the response's tokens.
    """
    mask = batch["prompt_attention_mask"].bool()
    first = mask.int().argmax(1, keepdim=True)
    rest = mask.scatter(1, first, False)
    moved = {
        "prompt_input_ids": batch["prompt_input_ids"].gather(1, first),
        "prompt_attention_mask": torch.ones_like(first, dtype=torch.bool),
    }
    for side in SIDES:
        own = batch[f"{side}_attention_mask"].bool()
        moved[f"{side}_input_ids"] = torch.cat([batch["prompt_input_ids"], batch[f"{side}_input_ids"]], 1)
        moved[f"{side}_attention_mask"] = torch.cat([rest, own], 1)
        moved[f"{side}_response_mask"] = torch.cat([torch.zeros_like(rest), own], 1)
    return batch | moved
