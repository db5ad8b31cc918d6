"""Rows without their padding: a batch's texts laid end to end in bins, so that (almost) no padding is computed.

B rows, L positions of the batch as it came; P bins, C positions each.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch

BIN_ROWS = 2
"""A bin holds about as much as this many of the longest rows: attention within a bin costs its length squared, and
larger bins would leave less unfilled."""


@dataclass(frozen=True)
class Packing:
    """source, positions: (P, C); taken: (B, L). At the end of a bin stand places of no text, which see themselves."""

    source: torch.Tensor
    """Where each packed token stands in the flattened batch."""
    positions: torch.Tensor
    """Restarting at 0 with each text."""
    taken: torch.Tensor
    """Where each token of the batch stands in the flattened bins; 0 at padding."""


def pack_rows(lengths: Sequence[int], width: int) -> Packing:
    """Bins for right-padded rows of these lengths and this width: longest first, each into the emptiest bin."""
    capacity = BIN_ROWS * max(lengths)
    bins: list[list[int]] = [[] for _ in range(-(-sum(lengths) // capacity))]
    emptiest = [(0, number) for number in range(len(bins))]
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        filled, number = heapq.heappop(emptiest)
        bins[number].append(row)
        heapq.heappush(emptiest, (filled + lengths[row], number))
    size = max(filled for filled, _ in emptiest)
    source, positions = torch.zeros(len(bins), size, dtype=torch.long), torch.zeros(len(bins), size, dtype=torch.long)
    taken = torch.zeros(len(lengths), width, dtype=torch.long)
    for number, rows in enumerate(bins):
        start = 0
        for row in rows:
            places = torch.arange(lengths[row])
            end = start + lengths[row]
            source[number, start:end] = places + row * width
            positions[number, start:end] = places
            taken[row, : lengths[row]] = places + number * size + start
            start = end
    return Packing(source, positions, taken)
