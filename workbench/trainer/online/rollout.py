"""A rollout: completions of a batch of prompts, sampled by the policy and scored, or made elsewhere.

Letters: P prompts, N completions, T positions of a completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn import functional

from workbench.errors import DataError
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loop.sources import LOSS_WEIGHT, ROW, SOURCE

RANK_STRIDE = 1 << 32
"""The group numbers of two processes are this far apart, so that no two groups share a number."""


@dataclass(frozen=True)
class Rollout:
    """Completions of prompts, a prompt's beside one another where they were sampled here."""

    prompts: torch.Tensor
    """(P, Lp) int64, padded on the left."""
    prompt_mask: torch.Tensor
    prompt_index: torch.Tensor
    """(N,) int64: which prompt each completes."""
    group_ids: torch.Tensor
    """(N,) int64: completions that are compared with one another share a number, no two processes do."""
    completion_ids: torch.Tensor
    """(N, T) int64, padded on the right."""
    completion_mask: torch.Tensor
    ended: torch.Tensor
    """(N,) bool: not cut at the limit."""
    rewards: torch.Tensor
    """(N,) float64."""
    sampled_here: bool = False
    """Whether this trainer sampled it, with the weights that the first update begins from."""
    sampler_logprobs: torch.Tensor | None = None
    """(N, T) float32 as the sampler drew them, truncation included; none where they were made elsewhere."""
    old_logprobs: torch.Tensor | None = None
    """(N, T) float32 under the whole distribution of the policy that sampled; none where they are to be computed."""
    old_are_sums: bool = False
    """Whether only the sum of a completion's old_logprobs is known; it is then spread evenly over its tokens."""
    entropies: torch.Tensor | None = None
    """(N, T) float32 at the sampling temperature."""
    ref_logprobs: torch.Tensor | None = None
    """(N, T) float32 under the reference."""
    by_name: dict[str, list[float | None]] = field(default_factory=dict)
    """Each reward's own values, N each; None where it has no opinion."""
    extra: dict[str, list[Any]] = field(default_factory=dict)
    """Columns that rewards logged, N each."""
    logged: dict[str, list[float]] = field(default_factory=dict)
    """Numbers that rewards logged, any number of each."""
    of_prompt: Batch = field(default_factory=dict)
    """Columns (P,) of the prompts that go with them into updates: their source, the weight of their loss, and which
    row of the data they are."""
    texts: list[str] = field(default_factory=list)
    """The prompts as text, P; none where the completions were made elsewhere."""
    prompt_ids: list[str] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)

    @property
    def lengths(self) -> torch.Tensor:
        """(N,) tokens of each completion."""
        return self.completion_mask.sum(1)

    def row_batch(self) -> Batch:
        """The rows that scoring and updates take, one for each completion."""
        return {
            "prompts": self.prompts[self.prompt_index],
            "prompt_mask": self.prompt_mask[self.prompt_index],
            "prompt_index": self.prompt_index,
            "completion_ids": self.completion_ids,
            "completion_mask": self.completion_mask,
            **{name: values[self.prompt_index] for name, values in self.of_prompt.items()},
        }

    def of_prompts(self, kept: Sequence[int]) -> Rollout:
        """The completions of these prompts alone, in the order of the prompts given."""
        owners = self.prompt_index.tolist()
        rows = [row for prompt in kept for row, owner in enumerate(owners) if owner == prompt]
        number = {prompt: place for place, prompt in enumerate(kept)}
        picked = {
            name: None if (value := getattr(self, name)) is None else value[rows]
            for name in ("group_ids", "completion_ids", "completion_mask", "ended", "rewards", *PER_TOKEN)
        }
        return replace(
            self,
            prompts=self.prompts[list(kept)],
            prompt_mask=self.prompt_mask[list(kept)],
            prompt_index=torch.tensor([number[owners[row]] for row in rows], device=self.prompt_index.device),
            by_name={name: [values[row] for row in rows] for name, values in self.by_name.items()},
            extra={name: [values[row] for row in rows] for name, values in self.extra.items()},
            of_prompt={name: values[list(kept)] for name, values in self.of_prompt.items()},
            texts=[self.texts[prompt] for prompt in kept] if self.texts else [],
            prompt_ids=[self.prompt_ids[prompt] for prompt in kept] if self.prompt_ids else [],
            completions=[self.completions[row] for row in rows] if self.completions else [],
            **picked,  # type: ignore[arg-type]
        )


PER_TOKEN = ("sampler_logprobs", "old_logprobs", "entropies", "ref_logprobs")


def join_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """The rollouts one behind the other, as one."""
    if len(parts) == 1:
        return parts[0]
    prompt_width = max(part.prompts.shape[1] for part in parts)
    width = max(part.completion_ids.shape[1] for part in parts)
    before = [sum(len(part.prompts) for part in parts[:index]) for index in range(len(parts))]
    highest = [int(part.group_ids.max()) + 1 if len(part.group_ids) else 0 for part in parts]

    def padded(name: str, size: int, *, left: bool = False) -> Any:
        tensors = [getattr(part, name) for part in parts]
        if any(tensor is None for tensor in tensors):
            return None
        missing = [size - tensor.shape[1] for tensor in tensors]
        pads = [(number, 0) if left else (0, number) for number in missing]
        return torch.cat([functional.pad(tensor, pad) for tensor, pad in zip(tensors, pads, strict=True)])

    # The numbers of groups go on, within the process's own range.
    groups, offset = [], 0
    for part, top in zip(parts, highest, strict=True):
        groups.append(part.group_ids + offset)
        offset += top % RANK_STRIDE
    return Rollout(
        prompts=padded("prompts", prompt_width, left=True),
        prompt_mask=padded("prompt_mask", prompt_width, left=True),
        prompt_index=torch.cat([part.prompt_index + start for part, start in zip(parts, before, strict=True)]),
        group_ids=torch.cat(groups),
        completion_ids=padded("completion_ids", width),
        completion_mask=padded("completion_mask", width),
        ended=torch.cat([part.ended for part in parts]),
        rewards=torch.cat([part.rewards for part in parts]),
        sampled_here=parts[0].sampled_here,
        old_are_sums=any(part.old_are_sums for part in parts),
        by_name={name: [value for part in parts for value in part.by_name[name]] for name in parts[0].by_name},
        extra={
            name: [value for part in parts for value in part.extra.get(name, [None] * len(part.completion_ids))]
            for name in dict.fromkeys(name for part in parts for name in part.extra)
        },
        logged={
            name: [value for part in parts for value in part.logged.get(name, [])]
            for name in dict.fromkeys(name for part in parts for name in part.logged)
        },
        of_prompt={name: torch.cat([part.of_prompt[name] for part in parts]) for name in parts[0].of_prompt},
        texts=[text for part in parts for text in part.texts],
        prompt_ids=[name for part in parts for name in part.prompt_ids],
        completions=[text for part in parts for text in part.completions],
        **{name: padded(name, width) for name in PER_TOKEN},
    )


def rollout_made_elsewhere(batch: Batch, number: int, rank: int, *, needs_ratios: str = "") -> Rollout:
    """The rollout of a batch that brings completions with their rewards. number: the batch's, for messages.

    Raises DataError where parts do not fit.

    old_logprobs may be sums (B,), which allow ratios of whole completions alone. needs_ratios: what takes ratios of
    single tokens, and therefore no sums; empty where nothing does.
    """
    completion_ids, rewards = batch["responses"], batch["rewards"].double()
    mask = batch.get("response_mask", torch.ones_like(completion_ids, dtype=torch.bool)).bool()
    if not bool(rewards.isfinite().all()):
        row = int((~rewards.isfinite()).nonzero()[0])
        raise DataError(f"batch {number}: rewards[{row}] is {float(rewards[row])}; allowed finite numbers")
    for name in ("response_mask", "ref_logprobs", "old_logprobs", "rewards", "ended", "group_ids"):
        value = batch.get(name)
        wanted = completion_ids.shape[: value.ndim] if value is not None else ()
        if value is not None and value.shape != wanted:
            raise DataError(
                f"batch {number}: {name} is {tuple(value.shape)}, responses is {tuple(completion_ids.shape)}"
            )
    empty = ~mask.any(1)
    if bool(empty.any()):
        raise DataError(f"batch {number}: rows {empty.nonzero().flatten().tolist()[:10]} have an empty completion")
    prompts, prompt_index = torch.unique(
        torch.cat((batch["prompts"].masked_fill(~batch["prompt_mask"], 0), batch["prompt_mask"].long()), 1),
        dim=0,
        return_inverse=True,
    )
    width = batch["prompts"].shape[1]
    old = batch.get("old_logprobs")
    old_are_sums = old is not None and old.ndim == 1
    if old_are_sums and needs_ratios:
        raise DataError(
            f"batch {number}: old_logprobs are one sum a completion, which allows ratios of whole completions alone, "
            f"and {needs_ratios} takes those of tokens; allowed one a token (B, L)"
        )
    if old is not None and old_are_sums:
        old = torch.where(mask, (old / mask.sum(1))[:, None], 0.0)
    groups = batch.get("group_ids", prompt_index).long()
    return Rollout(
        prompts=prompts[:, :width],
        prompt_mask=prompts[:, width:].bool(),
        prompt_index=prompt_index,
        group_ids=groups.unique(return_inverse=True)[1] + rank * RANK_STRIDE,
        completion_ids=completion_ids,
        completion_mask=mask,
        ended=batch.get("ended", torch.ones_like(mask[:, 0])).bool(),
        rewards=rewards,
        old_logprobs=old,
        old_are_sums=old_are_sums,
        ref_logprobs=batch.get("ref_logprobs"),
        of_prompt={
            name: batch[name].new_zeros(len(prompts)).index_copy_(0, prompt_index, batch[name])
            for name in (SOURCE, LOSS_WEIGHT, ROW)
            if name in batch
        },
    )
