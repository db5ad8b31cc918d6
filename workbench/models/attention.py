"""Causal attention by the kernel that is fastest where it runs; of whole rows, or of texts laid end to end.

Letters: B rows, T positions of this call, S positions attended to, M tokens of all texts, N heads, K key-value heads,
D head size.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MATMUL_POSITIONS = 512
"""The most positions at which plain matrix products beat the fused kernel in half precision on a CPU: 3.5 times at 128
positions; at 512 the scores they hold become large."""

GRID_BRANCH, GRID_STEM, GRID_TEXT = 64, 512, 64
"""Branches, stems and texts without branches up to here go into rows of one width: short ones cost more by the call
than by the padding."""

GRID_FILL = 3
"""Places of that grid for each real token, at most."""

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


@dataclass(frozen=True)
class Grid:
    """Texts as rows of one width. A text with one branch or none is all stem; G is the most branches of a stem."""

    stems: Tensor
    """(P, S): where each place stands among the M tokens; any token at padding."""
    stem_bias: Tensor
    """(P, S) float32: 0 at real tokens, -inf at padding."""
    branches: Tensor | None
    """(P, G, b): the same as stems."""
    taken: Tensor
    """(M,): where each token stands among all places, the stems' before the branches'."""


def grid_size(texts: Sequence[Text]) -> tuple[int, int, int, int] | None:
    """(stems, their width, branches of each, the branches' width) of a grid of these texts. None where rows of one
    shape at a time are faster: one or few calls as it is, or too much padding."""
    rows = [(text[0], text[1:]) if len(text) > 2 else (sum(text), ()) for text in texts]
    stem_width = max(stem for stem, _ in rows)
    width = max((length for _, branches in rows for length in branches), default=0)
    num_calls = sum(1 + len(set(branches[1:])) for _, branches in set(rows))
    if num_calls == 1 or width > GRID_BRANCH or stem_width > (GRID_STEM if width else GRID_TEXT):
        return None
    num_branches = max(len(branches) for _, branches in rows)
    if len(rows) * (stem_width + num_branches * width) > GRID_FILL * sum(map(sum, texts)):
        return None
    return len(rows), stem_width, num_branches, width


@dataclass(frozen=True)
class Pairs:
    """Pairs of tokens whose scores are computed in one head of one layer."""

    seen: float
    """The pairs that every kernel computes: those of a causal call that do not lie ahead, and all pairs of a masked
    one."""
    ahead: float
    """The pairs that plain products alone compute: those of a causal call that lie ahead."""


def pairs_of_rows(rows: float, length: float) -> Pairs:
    """The pairs of rows of one length that attend computes in one causal call."""
    ahead = length * (length - 1) / 2 if length <= MATMUL_POSITIONS else 0.0
    return Pairs(rows * length * (length + 1) / 2, rows * ahead)


def pairs_of_texts(texts: Sequence[Text]) -> Pairs:
    """The pairs of attend_texts. They follow from the shapes alone: the kernel of variable lengths, which some machines
    have and which computes no padding, is left out, so that a step has one cost wherever it runs."""
    grid = grid_size(texts)
    if grid is not None:
        num_stems, stem_width, num_branches, width = grid
        stems = pairs_of_rows(num_stems, stem_width)
        return Pairs(stems.seen + num_stems * num_branches * width * (stem_width + width), stems.ahead)
    wholes = [pairs_of_rows(1, sum(text[:2])) for text in texts]
    later = sum(length * (text[0] + length) for text in texts for length in text[2:])
    return Pairs(sum(whole.seen for whole in wholes) + later, sum(whole.ahead for whole in wholes))


@dataclass(frozen=True)
class TextPlan:
    """Texts end to end, and what all layers share to attend to them; each is worked out when first asked for."""

    texts: Sequence[Text]
    device: torch.device

    @functools.cached_property
    def grid(self) -> Grid | None:
        """The texts as rows of one width; None where grid_size gives no such width."""
        size = grid_size(self.texts)
        if size is None:
            return None
        _, stem_width, num_branches, width = size
        rows = [(text[0], text[1:]) if len(text) > 2 else (sum(text), ()) for text in self.texts]
        stem_lengths = torch.tensor([stem for stem, _ in rows])
        lengths = torch.tensor([[*branches, *[0] * (num_branches - len(branches))] for _, branches in rows]).long()
        ends = torch.cat((stem_lengths[:, None], lengths), 1).flatten().cumsum(0).view(len(rows), -1)
        stems, stem_real = _places(ends[:, 0] - stem_lengths, stem_lengths, stem_width)
        branches, real = _places(ends[:, 1:] - lengths, lengths, width)
        taken = torch.empty(int(ends[-1, -1]), dtype=torch.long)
        numbers = torch.arange(stems.numel() + branches.numel())
        taken[stems[stem_real]] = numbers[: stems.numel()].view(stems.shape)[stem_real]
        taken[branches[real]] = numbers[stems.numel() :].view(branches.shape)[real]
        bias = torch.zeros(stems.shape).masked_fill(~stem_real, -torch.inf)
        found = [part.to(self.device) for part in (stems, bias, branches, taken)]
        return Grid(found[0], found[1], found[2] if width else None, found[3])

    @functools.cached_property
    def varlen(self) -> VarlenPlan:
        """The plan for the kernel of variable lengths."""
        query_lengths, key_lengths, source, start = [0], [0], [], 0
        for stem, *branches in self.texts:
            first, *others = branches or [0]
            query_lengths += [stem + first, *others]
            key_lengths += [stem + first, *(stem + other for other in others)]
            source.append(torch.arange(start, start + stem + first))
            end = start + stem + first
            for other in others:
                source += [torch.arange(start, start + stem), torch.arange(end, end + other)]
                end += other
            start = end
        q_ends, k_ends = (torch.tensor(each).cumsum(0).int().to(self.device) for each in (query_lengths, key_lengths))
        shares = len(query_lengths) > len(self.texts) + 1
        seen = torch.cat(source).to(self.device) if shares else None
        return VarlenPlan(q_ends, k_ends, max(query_lengths), max(key_lengths), seen)


@dataclass(frozen=True)
class VarlenPlan:
    """Ends of the query rows and of the key rows, (rows + 1,) int32; the longest of each; whose tokens the keys are."""

    query_ends: Tensor
    key_ends: Tensor
    longest_queries: int
    longest_keys: int
    seen: Tensor | None
    """(number of keys,), a stem's again for each branch; None: every token once."""


def _places(starts: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """start, start + 1, ... of each (..., width), the last again at padding (0 of nothing); and which are real."""
    steps = torch.arange(width)
    last = (starts + lengths - 1).clamp(min=0)[..., None]
    return torch.minimum(starts[..., None] + steps, last), steps < lengths[..., None]


def attend_texts(queries: Tensor, keys: Tensor, values: Tensor, plan: TextPlan) -> Tensor:
    """Each text looks back at itself alone, and each branch at its stem and itself.

    queries: (1, N, M, D); keys, values: (1, K, M, D); texts lie end to end, a stem before its branches, M tokens in
    all. Returns (1, N, M, D).
    """
    if queries.dtype in (torch.bfloat16, torch.float16) and _has_flash(queries.device):
        return _varlen(queries, keys, values, plan.varlen)
    if plan.grid is not None:
        return _attend_grid(queries, keys, values, plan.grid)
    # Neighbours of one shape go together: rows that need no padding are one call.
    runs = [(text, len(list(same))) for text, same in itertools.groupby(plan.texts)]
    sizes = [sum(text) * count for text, count in runs]
    mixed = []
    for (text, count), *parts in zip(
        runs, *(part[0].split(sizes, dim=1) for part in (queries, keys, values)), strict=True
    ):
        q, k, v = (part.unflatten(1, (count, sum(text))).transpose(0, 1) for part in parts)
        mixed.append(_attend_branches(q, k, v, text).transpose(0, 1).flatten(1, 2))
    return torch.cat(mixed, 1)[None]


def _attend_grid(queries: Tensor, keys: Tensor, values: Tensor, grid: Grid) -> Tensor:
    """All stems in one call, then all branches by matrix products in which a stem's keys stand once."""
    heads, kv_heads, size = queries.shape[1], keys.shape[1], keys.shape[3]
    # An embedding's backward is the fastest sum into rows on a CPU (that of index_select adds them one by one).
    flat = [part[0].transpose(0, 1).flatten(1) for part in (queries, keys, values)]
    q, k, v = (F.embedding(grid.stems, part).unflatten(-1, (-1, size)).transpose(1, 2) for part in flat)
    mixed = attend(q, k, v, None, is_causal=True).transpose(1, 2).reshape(-1, heads * size)
    if grid.branches is not None:
        num_stems, num_branches, width = grid.branches.shape
        stem_k, stem_v = (part.reshape(num_stems * kv_heads, -1, size) for part in (k, v))
        q, k, v = (F.embedding(grid.branches, part).unflatten(-1, (kv_heads, -1, size)) for part in flat)
        # (P, G, b, K, N / K, D) -> P, K, G, N / K, b, D: the queries of all branches that see a stem's keys are a row.
        q = q.permute(0, 3, 1, 4, 2, 5).reshape(num_stems * kv_heads, -1, size)
        k, v = (part.permute(0, 3, 1, 4, 2, 5).reshape(-1, width, size) for part in (k, v))
        found = _branches_by_matmul(q, stem_k, stem_v, k, v, grid.stem_bias.to(q.dtype))
        found = found.view(num_stems, kv_heads, num_branches, -1, width, size).permute(0, 2, 4, 1, 3, 5)
        mixed = torch.cat((mixed, found.reshape(-1, heads * size)))
    return F.embedding(grid.taken, mixed).unflatten(-1, (heads, size)).transpose(0, 1)[None]


def _branches_by_matmul(
    queries: Tensor, stem_keys: Tensor, stem_values: Tensor, keys: Tensor, values: Tensor, stem_bias: Tensor
) -> Tensor:
    """Softmax over a stem and a branch's own past.

    queries: (P * K, G * R * b, D), R queries a key head; stem_keys, stem_values: (P * K, S, D); keys, values:
    (P * K * G, b, D); stem_bias: (P, S), added to the scores. Returns the queries' shape.
    """
    rows, num_queries, size = queries.shape
    num_own, width, num_stem = len(keys), keys.shape[1], stem_keys.shape[1]
    own_queries = queries.reshape(num_own, -1, size)
    bias = stem_bias.repeat_interleave(rows // len(stem_bias), dim=0)[:, None]
    scores = torch.baddbmm(bias, queries, stem_keys.transpose(1, 2), alpha=size**-0.5)
    future = queries.new_full((width, width), -torch.inf).triu(1).repeat(own_queries.shape[1] // width, 1)
    own_scores = torch.baddbmm(future, own_queries, keys.transpose(1, 2), alpha=size**-0.5)
    weights = torch.cat((scores.view(num_own, -1, num_stem), own_scores), -1).softmax(-1)
    stem_weights, own_weights = weights.split((num_stem, width), dim=-1)
    from_stem = torch.bmm(stem_weights.view(rows, num_queries, num_stem), stem_values)
    return torch.baddbmm(from_stem.view(num_own, -1, size), own_weights, values).view(queries.shape)


def _attend_branches(queries: Tensor, keys: Tensor, values: Tensor, text: Text) -> Tensor:
    """Attention of B texts of one shape. queries: (B, N, sum(text), D). The first branch follows its stem: they are one
    text."""
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


def _varlen(queries: Tensor, keys: Tensor, values: Tensor, plan: VarlenPlan) -> Tensor:
    """One kernel over all texts, on a GPU in half precision; its causal mask is aligned to the last key."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (part[0].transpose(0, 1) for part in (queries, keys, values))
    if plan.seen is not None:
        k, v = k[plan.seen], v[plan.seen]
    # torch 2.11 shares heads of keys unasked, and has no word for it.
    asks = "enable_gqa" in inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"enable_gqa": q.shape[1] != k.shape[1]} if asks else {}
    mixed = varlen_attn(
        q,
        k,
        v,
        plan.query_ends,
        plan.key_ends,
        plan.longest_queries,
        plan.longest_keys,
        window_size=(-1, 0),
        **options,
    )
    assert isinstance(mixed, Tensor)
    return mixed.transpose(0, 1)[None]


def _prefers_matmul(keys: Tensor) -> bool:
    half = keys.dtype in (torch.bfloat16, torch.float16)
    return keys.device.type == "cpu" and half and keys.shape[2] <= MATMUL_POSITIONS


def _causal_by_matmul(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention as transformers' eager one: scores are rounded to the half-precision type before the softmax."""
    rows, heads, num_queries, size = queries.shape
    num_keys, repeats = keys.shape[2], heads // keys.shape[1]
    if repeats > 1:
        keys, values = (part.repeat_interleave(repeats, dim=1) for part in (keys, values))
    future = queries.new_full((num_queries, num_keys), -torch.inf).triu(1 + num_keys - num_queries)
    q = queries.reshape(rows * heads, num_queries, size)
    k, v = (part.reshape(rows * heads, num_keys, size) for part in (keys, values))
    scores = torch.baddbmm(future, q, k.transpose(1, 2), alpha=size**-0.5)
    return torch.bmm(scores.softmax(-1), v).view(rows, heads, num_queries, size)
