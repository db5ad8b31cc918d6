"""Pairs of a better and a worse completion: how both are scored, for trainers, stages and evaluation alike.

A batch has the keys of batch_format.PAIRS. Letters: B pairs, C and R positions of chosen and rejected completions.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from workbench.models.flops import Work
from workbench.models.outputs import forward_completions
from workbench.objectives.logprobs import projected_logprobs
from workbench.objectives.preference import PairLogratios
from workbench.trainer.loop.batches import Batch

SIDES = ("chosen", "rejected")


def completion_logprobs(
    model: torch.nn.Module, batch: Batch, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both sides in one forward: sums (2B,), chosen above rejected; per token (B, C) and (B, R), 0 at padding."""
    padded_ids, mask, prompt_index = _both_sides(batch)
    outputs = forward_completions(
        model, batch["prompt_input_ids"], batch["prompt_attention_mask"], padded_ids, mask, prompt_index
    )
    found = projected_logprobs(
        outputs.hidden, outputs.weight, padded_ids[mask], bias=outputs.bias, temperature=temperature
    )
    logprobs = found.new_zeros(mask.shape).masked_scatter(mask, found)
    chosen, rejected = (
        part[:, : batch[f"{side}_input_ids"].shape[1]] for side, part in zip(SIDES, logprobs.chunk(2), strict=True)
    )
    return logprobs.sum(1), chosen, rejected


def summed_logprobs(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """(2B,) log-probabilities of the completions, chosen above rejected."""
    return completion_logprobs(model, batch)[0]


def pair_scores(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """(2B,) a reward model's scores of the completions behind their prompts, chosen above rejected."""
    scores: torch.Tensor = model(batch["prompt_input_ids"], batch["prompt_attention_mask"], *_both_sides(batch))
    return scores


def _both_sides(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Chosen above rejected: ids and mask (2B, the longer of C and R); and which prompt each continues, (2B,)."""
    ids, masks = ([batch[f"{side}_{part}"] for side in SIDES] for part in ("input_ids", "attention_mask"))
    width = max(part.shape[1] for part in ids)
    padded_ids, padded_masks = (
        torch.cat([functional.pad(part, (0, width - part.shape[1])) for part in parts]) for parts in (ids, masks)
    )
    return padded_ids, padded_masks.bool(), torch.arange(len(ids[0]), device=padded_masks.device).repeat(2)


def pairs_work(model: torch.nn.Module, batch: Batch) -> Work:
    """What completion_logprobs computes of a batch."""
    return Work.of_completions(model, *_lengths(batch))


def scores_work(trunk: torch.nn.Module, batch: Batch) -> Work:
    """What pair_scores computes of a batch. trunk: the language model within the reward model."""
    return Work.of_last_states(trunk, *_lengths(batch))


def _lengths(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens of the prompts (B,) and of the completions (2B,), and which prompt each of these continues."""
    prompts = batch["prompt_attention_mask"].sum(1)
    completions = torch.cat([completion_lengths(batch, side) for side in SIDES])
    return prompts, completions, torch.arange(len(prompts), device=prompts.device).repeat(2)


def reference_columns(model: torch.nn.Module, batch: Batch, temperature: float = 1.0) -> Batch:
    """The keys by which a batch knows its reference: the log-probabilities of each token under it."""
    _, *sides = completion_logprobs(model, batch, temperature)
    return {f"ref_{side}_logprobs": logprobs for side, logprobs in zip(SIDES, sides, strict=True)}


def has_reference(batch: Batch) -> bool:
    """Whether the batch knows its reference already."""
    return "ref_chosen_logprobs" in batch


def pair_logratios(sums: torch.Tensor, batch: Batch) -> PairLogratios:
    """Policy minus reference of both sides, in the precision of the sums. sums: (2B,), chosen above rejected."""
    ratios = [
        own - (batch[f"ref_{side}_logprobs"].to(sums.dtype) * batch[f"{side}_attention_mask"]).sum(1)
        for side, own in zip(SIDES, sums.chunk(2), strict=True)
    ]
    return PairLogratios(*ratios, *(completion_lengths(batch, side) for side in SIDES))


def completion_lengths(batch: Batch, side: str) -> torch.Tensor:
    """(B,) tokens of each completion of a side."""
    return batch[f"{side}_attention_mask"].sum(1)


def text_lengths(batch: Batch) -> torch.Tensor:
    """(2B,) tokens of each prompt with its completion, chosen above rejected."""
    return torch.cat([batch["prompt_attention_mask"].sum(1) + completion_lengths(batch, side) for side in SIDES])


def pair_weights(batch: Batch) -> torch.Tensor:
    """(B,) how much each pair counts: 1, or 0 where it only stands for there being none."""
    first = batch["prompt_input_ids"]
    return batch.get("pair_weights", torch.ones(len(first), device=first.device))
