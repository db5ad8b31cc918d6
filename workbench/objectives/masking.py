"""Masks from lengths (never from pad ids), and rows joined without a gap. B rows, T positions."""

from __future__ import annotations

import torch

IGNORED = -100
"""The label of a token that counts for nothing."""


def length_mask(lengths: torch.Tensor, width: int) -> torch.Tensor:
    """(B, width) bool, true at the first lengths[b] positions. lengths: (B,)."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def position_ids(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions counted along the real tokens, 0 at padding. attention_mask: (B, T)."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def packed_mask(positions: torch.Tensor) -> torch.Tensor:
    """(B, 1, T, T) bool: causal, and never from one packed text into another.

    positions: (B, T), restarting at 0 with each text.
    """
    text = (positions == 0).cumsum(-1)
    same = text[:, None, :, None] == text[:, None, None, :]
    return same & torch.ones_like(same).tril()


def join_prompt_completion(
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    pad_id: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each row's prompt and completion side by side, right-padded, wherever their padding stood.

    All (B, *). Returns input_ids (B, L), lengths (B,), and completion_mask (B, L), true at completion tokens.
    """
    ids = torch.cat((prompt_ids, completion_ids), 1)
    real = torch.cat((prompt_mask, completion_mask), 1).bool()
    lengths = real.sum(1)
    width = int(lengths.max())
    # A stable sort of "is padding" moves real tokens to the front and keeps their order.
    order = torch.sort((~real).to(torch.uint8), dim=1, stable=True).indices[:, :width]
    kept = length_mask(lengths, width)
    joined = ids.gather(1, order).masked_fill(~kept, pad_id)
    return joined, lengths, kept & (torch.arange(width, device=ids.device) >= prompt_mask.sum(1)[:, None])
