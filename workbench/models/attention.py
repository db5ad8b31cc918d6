"""Causal attention by the kernel that is fastest where it runs; of whole rows, or of texts laid end to end.

Letters: B rows, T positions of this call, S positions attended to, M tokens of all texts, N heads, K key-value heads,
D head size.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MATMUL_POSITIONS = 512
"""Up to here plain matrix products beat the fused kernel in half precision on a CPU (3.5 times at 128 positions; at
512 the scores they hold become large)."""


Text = tuple[int, ...]
"""Tokens of a text: (length,); or of a stem and of each branch that continues it: (stem, branch, branch, ...)."""


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
    """queries: (B, N, T, D); keys, values: (B, K, S, D); mask: (B, 1, T, S) bool, true where allowed. (B, N, T, D).

    is_causal: the queries are the last T of the S positions, and none looks ahead; without a mask.
    """
    num_queries, num_keys = queries.shape[2], keys.shape[2]
    if is_causal and _prefers_matmul(keys):
        return _causal_by_matmul(queries, keys, values)
    if is_causal and num_queries < num_keys:
        mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=queries.device).tril(num_keys - num_queries)
    grouped = queries.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=is_causal and mask is None, enable_gqa=grouped
    )


def positions_of(texts: Sequence[Text]) -> Tensor:
    """Position of each token (M,): they restart with each text, and each branch begins where its stem ended."""
    starts, lengths = [], []
    for stem, *branches in texts:
        starts += [0, *(stem for _ in branches)]
        lengths += [stem, *branches]
    each = torch.tensor(lengths)
    return torch.arange(int(each.sum())) + (torch.tensor(starts) - each.cumsum(0) + each).repeat_interleave(each)


def attend_texts(queries: Tensor, keys: Tensor, values: Tensor, texts: Sequence[Text]) -> Tensor:
    """Each text looks back at itself alone, and each branch at its stem and itself.

    queries: (1, N, M, D); keys, values: (1, K, M, D); texts lie end to end, a stem before its branches, M tokens in
    all. Returns (1, N, M, D).
    """
    if queries.dtype in (torch.bfloat16, torch.float16) and _has_flash(queries.device):
        return _varlen(queries, keys, values, texts)
    # Neighbours of one shape go together: rows that need no padding are one call.
    runs = [(text, len(list(same))) for text, same in itertools.groupby(texts)]
    sizes = [sum(text) * count for text, count in runs]
    mixed = []
    for (text, count), *parts in zip(
        runs, *(part[0].split(sizes, dim=1) for part in (queries, keys, values)), strict=True
    ):
        q, k, v = (part.unflatten(1, (count, sum(text))).transpose(0, 1) for part in parts)
        mixed.append(_attend_branches(q, k, v, text).transpose(0, 1).flatten(1, 2))
    return torch.cat(mixed, 1)[None]


def _attend_branches(queries: Tensor, keys: Tensor, values: Tensor, text: Text) -> Tensor:
    """Of B texts of one shape. queries: (B, N, sum(text), D). The first branch follows its stem: they are one text."""
    if len(text) <= 2:
        return attend(queries, keys, values, None, is_causal=True)
    stem, first, *others = text
    (q, *later_q), (k, *later_k), (v, *later_v) = (
        part.split([stem + first, *others], dim=2) for part in (queries, keys, values)
    )
    stem_k, stem_v = k[:, :, :stem], v[:, :, :stem]
    mixed = [attend(q, k, v, None, is_causal=True)]
    for q, k, v in zip(later_q, later_k, later_v, strict=True):
        mixed.append(attend(q, torch.cat((stem_k, k), 2), torch.cat((stem_v, v), 2), None, is_causal=True))
    return torch.cat(mixed, 2)


@functools.lru_cache
def _has_flash(device: torch.device) -> bool:
    """Whether torch's flash attention runs there: from Ampere on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _varlen(queries: Tensor, keys: Tensor, values: Tensor, texts: Sequence[Text]) -> Tensor:
    """One kernel over all texts, on a GPU in half precision; its causal mask is aligned to the last key."""
    from torch.nn.attention.varlen import varlen_attn

    query_lengths, key_lengths, source, start = [0], [0], [], 0
    for stem, *branches in texts:
        first, *others = branches or [0]
        query_lengths += [stem + first, *others]
        key_lengths += [stem + first, *(stem + other for other in others)]
        source.append(torch.arange(start, start + stem + first))
        end = start + stem + first
        for other in others:
            source += [torch.arange(start, start + stem), torch.arange(end, end + other)]
            end += other
        start = end
    q, k, v = (part[0].transpose(0, 1) for part in (queries, keys, values))
    if len(query_lengths) > len(texts) + 1:
        seen = torch.cat(source).to(k.device)
        k, v = k[seen], v[seen]
    q_ends, k_ends = (
        torch.tensor(lengths, device=q.device).cumsum(0).int() for lengths in (query_lengths, key_lengths)
    )
    mixed = varlen_attn(
        q,
        k,
        v,
        q_ends,
        k_ends,
        max(query_lengths),
        max(key_lengths),
        window_size=(-1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(mixed, Tensor)
    return mixed.transpose(0, 1)[None]


def _prefers_matmul(keys: Tensor) -> bool:
    half = keys.dtype in (torch.bfloat16, torch.float16)
    return keys.device.type == "cpu" and half and keys.shape[2] <= MATMUL_POSITIONS


def _causal_by_matmul(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As transformers' eager attention: scores are rounded to the half-precision type before the softmax."""
    rows, heads, num_queries, size = queries.shape
    num_keys, repeats = keys.shape[2], heads // keys.shape[1]
    if repeats > 1:
        keys, values = (part.repeat_interleave(repeats, dim=1) for part in (keys, values))
    future = queries.new_full((num_queries, num_keys), -torch.inf).triu(1 + num_keys - num_queries)
    q = queries.reshape(rows * heads, num_queries, size)
    k, v = (part.reshape(rows * heads, num_keys, size) for part in (keys, values))
    scores = torch.baddbmm(future, q, k.transpose(1, 2), alpha=size**-0.5)
    return torch.bmm(scores.softmax(-1), v).view(rows, heads, num_queries, size)
