"""Causal attention by the kernel that is fastest where it runs; of whole rows, or of texts laid end to end.

Letters: B rows, T positions of this call, S positions attended to, M tokens of all texts, N heads, K key-value heads,
D head size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MATMUL_POSITIONS = 512
"""Up to here plain matrix products beat the fused kernel in half precision on a CPU (3.5 times at 128 positions; at
512 the scores they hold become large)."""


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
    """queries: (B, N, T, D); keys, values: (B, K, S, D); mask: (B, 1, T, S) bool, true where allowed. (B, N, T, D)."""
    if is_causal and queries.shape[2] == keys.shape[2] and _prefers_matmul(queries):
        return _causal_by_matmul(queries, keys, values)
    grouped = queries.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=is_causal, enable_gqa=grouped
    )


def attend_texts(queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Each text looks back at itself alone. queries: (1, N, M, D); keys, values: (1, K, M, D); lengths: tokens of each
    text, in their order, M in all. Returns (1, N, M, D)."""
    if queries.is_cuda and queries.dtype in (torch.bfloat16, torch.float16):
        return _varlen(queries, keys, values, lengths)
    # Neighbours of one length go together: rows that need no padding are one call.
    runs = [(length, len(list(same))) for length, same in itertools.groupby(lengths)]
    sizes = [length * count for length, count in runs]
    mixed = []
    for (length, count), *parts in zip(
        runs, *(part[0].split(sizes, dim=1) for part in (queries, keys, values)), strict=True
    ):
        q, k, v = (part.unflatten(1, (count, length)).transpose(0, 1) for part in parts)
        mixed.append(attend(q, k, v, None, is_causal=True).transpose(0, 1).flatten(1, 2))
    return torch.cat(mixed, 1)[None]


def _varlen(queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int]) -> Tensor:
    """One kernel over all texts, on a GPU in half precision."""
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=queries.device)
    longest = max(lengths)
    q, k, v = (part[0].transpose(0, 1) for part in (queries, keys, values))
    grouped = q.shape[1] != k.shape[1]
    mixed = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=(-1, 0), enable_gqa=grouped)
    assert isinstance(mixed, Tensor)
    return mixed.transpose(0, 1)[None]


def _prefers_matmul(queries: Tensor) -> bool:
    return (
        queries.device.type == "cpu"
        and queries.dtype in (torch.bfloat16, torch.float16)
        and queries.shape[2] <= MATMUL_POSITIONS
    )


def _causal_by_matmul(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As transformers' eager attention: scores are rounded to the half-precision type before the softmax."""
    rows, heads, positions, size = queries.shape
    repeats = heads // keys.shape[1]
    if repeats > 1:
        keys, values = (part.repeat_interleave(repeats, dim=1) for part in (keys, values))
    future = queries.new_full((positions, positions), -torch.inf).triu(1)
    q, k, v = (part.reshape(rows * heads, positions, size) for part in (queries, keys, values))
    scores = torch.baddbmm(future, q, k.transpose(1, 2), alpha=size**-0.5)
    return torch.bmm(scores.softmax(-1), v).view(rows, heads, positions, size)
