"""FLOPs of sampling: a token is computed once with a cache; without one every step computes whole texts anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from workbench.generation.generate import batches_of
from workbench.generation.rollout import DROP_BELOW
from workbench.models.flops import ModelFlops, Work
from workbench.models.probe import verdict_of


def sampling_flops(
    flops: ModelFlops,
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> float:
    """FLOPs of one call of generate or sample. flops: the model's. lengths: each prompt's completions, in tokens."""
    if verdict_of(model).cache:
        return sum(flops.generation(len(ids), own) for ids, own in zip(prompts, lengths, strict=True))
    return flops.forward(Work.total(_recomputed(model, prompts, lengths, max_new_tokens)))


def _recomputed(
    model: Any, prompts: Sequence[Sequence[int]], lengths: Sequence[Sequence[int]], max_new_tokens: int
) -> Iterator[Work]:
    """Every forward of RecomputingDecoder, in the batches and with the rows of `rollout`: a row that has ended is
    computed until it is dropped."""
    num_samples = len(lengths[0]) if lengths else 1
    for batch in batches_of(model, prompts, max_new_tokens, num_samples):
        sizes = torch.tensor([len(prompts[index]) for index in batch])
        yield Work.of_rows(sizes, len(sizes), model)
        sizes = sizes.repeat_interleave(num_samples)
        ends = torch.tensor([length for index in batch for length in lengths[index]])
        for new in range(1, max_new_tokens):
            running = ends > new
            count = int(running.sum())
            if not count:
                break
            if count < DROP_BELOW * len(ends):
                sizes, ends = sizes[running], ends[running]
            yield Work.of_rows(sizes + new, len(sizes), model)
