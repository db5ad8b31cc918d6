"""Pairs of a better and a worse completion: how both are scored, for trainers, stages and evaluation alike.

A batch has the keys of batch_format.PAIRS. Letters: B pairs, C and R positions of chosen and rejected completions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from workbench.models.flops import Work
from workbench.models.outputs import forward_completions
from workbench.objectives.logprobs import projected_alignments, projected_logprobs
from workbench.objectives.preference import PairLogratios
from workbench.trainer.loop.batches import Batch

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class PairLogprobs:
    """Log-probabilities of both sides' completions under a model, nats."""

    sums: torch.Tensor
    """(2B,) over each completion, chosen above rejected."""
    chosen: torch.Tensor
    """(B, C) of each token, 0 at padding."""
    rejected: torch.Tensor
    """(B, R) of each token, 0 at padding."""
    alignments: torch.Tensor | None = None
    """(2B,) mean over a completion's tokens of log p − log Σ p², the sum over the vocabulary; without gradient."""


def completion_logprobs(
    model: torch.nn.Module, batch: Batch, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both sides in one forward: sums (2B,), chosen above rejected; per token (B, C) and (B, R), 0 at padding."""
    found = pair_logprobs(model, batch, temperature)
    return found.sums, found.chosen, found.rejected


def pair_logprobs(
    model: torch.nn.Module, batch: Batch, temperature: float = 1.0, *, aligned: bool = False
) -> PairLogprobs:
    """Both sides in one forward. aligned: with their alignments."""
    padded_ids, mask, prompt_index = _both_sides(batch)
    outputs = forward_completions(
        model, batch["prompt_input_ids"], batch["prompt_attention_mask"], padded_ids, mask, prompt_index
    )
    project = projected_alignments if aligned else projected_logprobs
    found = project(outputs.hidden, outputs.weight, padded_ids[mask], bias=outputs.bias, temperature=temperature)
    alignments = None
    if aligned:
        found, equal = found.unbind(1)
        alignments = found.new_zeros(mask.shape).masked_scatter(mask, found.detach() - equal).sum(1) / mask.sum(1)
    logprobs = found.new_zeros(mask.shape).masked_scatter(mask, found)
    chosen, rejected = (
        part[:, : batch[f"{side}_input_ids"].shape[1]] for side, part in zip(SIDES, logprobs.chunk(2), strict=True)
    )
    return PairLogprobs(logprobs.sum(1), chosen, rejected, alignments)


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


def token_logprobs(model: torch.nn.Module, batch: Batch, temperature: float = 1.0) -> torch.Tensor:
    """(B, C + R) log-probability of each token, chosen before rejected, 0 at padding."""
    found = pair_logprobs(model, batch, temperature)
    return torch.cat((found.chosen, found.rejected), 1)


def reference_columns(logprobs: torch.Tensor, batch: Batch) -> Batch:
    """The keys by which a batch knows its reference. logprobs: token_logprobs under it."""
    widths = [batch[f"{side}_input_ids"].shape[1] for side in SIDES]
    return {f"ref_{side}_logprobs": part for side, part in zip(SIDES, logprobs.split(widths, 1), strict=True)}


def has_reference(batch: Batch) -> bool:
    """Whether the batch knows its reference already."""
    return "ref_chosen_logprobs" in batch


def pair_logratios(sums: torch.Tensor, batch: Batch) -> PairLogratios:
    """Policy minus reference of both sides, in the precision of the sums. sums: (2B,), chosen above rejected."""
    return _logratios(sums, batch, [batch[f"{side}_attention_mask"] for side in SIDES])


def discounted_logratios(scores: PairLogprobs, batch: Batch, discount: float) -> PairLogratios:
    """The same with tokens beyond the length of the pair's shorter completion counted 1 − discount (LD-DPO, Liu et al.
    2024, arXiv 2409.06411, eq. 6, whose alpha is 1 − discount)."""
    shared = torch.minimum(*(completion_lengths(batch, side) for side in SIDES))[:, None]
    masks = [batch[f"{side}_attention_mask"].long() for side in SIDES]
    weights = [mask * torch.where(mask.cumsum(1) <= shared, 1.0, 1.0 - discount) for mask in masks]
    sides = zip((scores.chosen, scores.rejected), weights, strict=True)
    return _logratios(torch.cat([(own * weight).sum(1) for own, weight in sides]), batch, weights)


def _logratios(sums: torch.Tensor, batch: Batch, weights: list[torch.Tensor]) -> PairLogratios:
    """weights: of each token of the reference's sums, (B, C) and (B, R)."""
    references = [
        (batch[f"ref_{side}_logprobs"].to(sums.dtype) * weight).sum(1)
        for side, weight in zip(SIDES, weights, strict=True)
    ]
    chosen, rejected = sums.chunk(2)
    ref_chosen, ref_rejected = references
    lengths, other_lengths = (completion_lengths(batch, side) for side in SIDES)
    return PairLogratios(
        chosen - ref_chosen, rejected - ref_rejected, lengths, other_lengths, ref_margins=ref_chosen - ref_rejected
    )


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
