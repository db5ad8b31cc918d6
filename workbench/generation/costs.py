"""FLOPs of sampling: every forward of `rollout` again, by its shapes, in the batches that `generate` makes.

What is computed is charged, padding and rows that have ended among it. It follows from the prompts' lengths and the
completions' alone: a recorded step on a GPU, which looks at all positions and drops no row, is charged as one that
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from workbench.generation.decoding import RecomputingDecoder, decoder_of
from workbench.generation.generate import batches_of
from workbench.generation.sampling_loop import DROP_BELOW
from workbench.models.attention import pairs_of_rows
from workbench.models.cached_decoder import ModelDecoder
from workbench.models.flops import ModelFlops, Work, pairs_of_call
from workbench.models.llama_decoder import LlamaDecoder


def sampling_flops(
    flops: ModelFlops,
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> float:
    """FLOPs of one call of generate or sample. flops: the model's. lengths: each prompt's completions, in tokens."""
    decoder = decoder_of(model)
    works: list[Work] = []
    for batch in batches_of(model, prompts, max_new_tokens, len(lengths[0]) if lengths else 1):
        sizes = torch.tensor([len(prompts[index]) for index in batch])
        ends = torch.tensor([lengths[index] for index in batch])
        works += WORKS[decoder](model, sizes, ends, max_new_tokens)
    if decoder is not RecomputingDecoder:
        flops = replace(flops, projects_all=False)  # each row's last position is projected, and no other
    return flops.forward(Work.total(works)) if works else 0.0


def _recomputed(model: Any, sizes: torch.Tensor, ends: torch.Tensor, max_new_tokens: int) -> Iterator[Work]:
    """What RecomputingDecoder computes. sizes: (P,), tokens of each prompt; ends: (P, G), of each completion. So too of
    the functions below."""
    yield Work.of_rows(sizes, len(sizes), model)
    begun = sizes.repeat_interleave(ends.shape[1])
    for new, rows in _steps(ends, max_new_tokens):
        yield Work.of_rows(begun[rows] + new, len(rows), model)


def _by_own_cache(model: Any, sizes: torch.Tensor, ends: torch.Tensor, max_new_tokens: int) -> Iterator[Work]:
    """What LlamaDecoder computes. A step looks at every prompt, as padded, by as many rows as any prompt has left."""
    (num_prompts, group), width = ends.shape, int(sizes.max())
    pairs = pairs_of_rows(num_prompts, width)
    yield Work(num_prompts * width, pairs.seen, num_prompts, float(sizes.sum()), beyond=pairs.ahead)
    for new, rows in _steps(ends, max_new_tokens):
        _, left = (rows // group).unique_consecutive(return_counts=True)
        yield Work(len(rows), len(left) * int(left.max()) * width + len(rows) * new, len(rows), len(rows))


def _by_the_models_cache(model: Any, sizes: torch.Tensor, ends: torch.Tensor, max_new_tokens: int) -> Iterator[Work]:
    """What ModelDecoder computes. A layer with a window finds no more than that in the cache."""
    num_prompts, width = len(sizes), int(sizes.max())
    context, beyond = pairs_of_call(model, width, width, masked=bool((sizes < width).any()))
    read = float(sizes.sum())
    yield Work(num_prompts * width, num_prompts * context, num_prompts, read, beyond=num_prompts * beyond)
    for new, rows in _steps(ends, max_new_tokens):
        context, _ = pairs_of_call(model, 1, width + new, masked=True)
        yield Work(len(rows), len(rows) * context, len(rows), len(rows))


def _steps(ends: torch.Tensor, max_new_tokens: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Gives for each step of one batch the new tokens of its rows, and each row's place among all rows. A row that has
    ended is computed until it is dropped."""
    ends = ends.flatten()
    rows = torch.arange(len(ends))
    for new in range(1, max_new_tokens):
        running = ends[rows] > new
        count = int(running.sum())
        if not count:
            return
        if count < DROP_BELOW * len(rows):
            rows = rows[running]
        yield new, rows


WORKS: dict[type, Callable[[Any, torch.Tensor, torch.Tensor, int], Iterator[Work]]] = {
    RecomputingDecoder: _recomputed,
    LlamaDecoder: _by_own_cache,
    ModelDecoder: _by_the_models_cache,
}
