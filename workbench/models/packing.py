"""Rows without their padding: a batch's texts laid end to end in bins, so that (almost) no padding is computed.

B rows, L positions of the batch as it came; P bins, C positions each.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workbench.models.attention import Text

BIN_ROWS = 2
"""A bin holds about as much as this many of the longest rows: attention within a bin costs its length squared, and
larger bins would leave less unfilled."""


@dataclass(frozen=True)
class Packing:
    """source, positions: (P, C); taken: (B, L). At the end of a bin stand places of no text, which see themselves."""

    source: torch.Tensor
    """The place of each packed token in the flattened batch."""
    positions: torch.Tensor
    """The position of each packed token; it restarts at 0 with each text."""
    taken: torch.Tensor
    """The place of each token of the batch in the flattened bins; 0 at padding."""


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


@dataclass(frozen=True)
class Layout:
    """Prompts and the completions that branch off them, end to end."""

    texts: list[Text]
    source: torch.Tensor
    """The place of each token laid out, among all prompts' tokens followed by all completions'."""
    predictors: torch.Tensor
    """The place where the token is laid out that predicts each completion token, in the order given."""


def lay_out(prompts: Sequence[int], completions: Sequence[int], prompt_index: Sequence[int]) -> Layout:
    """Each prompt once, before its completions; by their lengths. Prompts without a completion token are left out, and
    so is each completion's last token, which predicts none.
    """
    texts, branches, continued = _texts(prompts, completions, prompt_index)
    # Texts of one shape side by side are attended to in one call.
    used = sorted(texts, key=texts.__getitem__)
    pieces = torch.tensor(
        [piece for owner in used for piece in (owner, *(len(prompts) + row for row in branches[owner]))]
    )
    given, laid = torch.tensor([*prompts, *completions]), torch.tensor([*prompts, *continued])
    starts = torch.zeros_like(laid)
    starts[pieces] = laid[pieces].cumsum(0) - laid[pieces]
    source = _spans((given.cumsum(0) - given)[pieces], laid[pieces])
    ends = (starts + laid - 1)[torch.tensor(prompt_index, dtype=torch.long)]
    # A completion's first token is predicted at the prompt's end, every other one by the token before it.
    rows = given[len(prompts) :]
    predictors = _spans(starts[len(prompts) :] - 1, rows)
    firsts = (rows.cumsum(0) - rows)[rows > 0]
    predictors[firsts] = ends[rows > 0]
    return Layout([texts[owner] for owner in used], source, predictors)


def texts_of(prompts: Sequence[int], completions: Sequence[int], prompt_index: Sequence[int]) -> list[Text]:
    """The texts that lay_out makes of the same."""
    return list(_texts(prompts, completions, prompt_index)[0].values())


def _texts(
    prompts: Sequence[int], completions: Sequence[int], prompt_index: Sequence[int]
) -> tuple[dict[int, Text], dict[int, list[int]], list[int]]:
    """The text of each prompt that is continued, its completions that have a token laid out, and how many tokens each
    completion has."""
    continued = [max(length - 1, 0) for length in completions]
    branches: dict[int, list[int]] = {
        owner: [] for owner, length in zip(prompt_index, completions, strict=True) if length
    }
    for row, (length, owner) in enumerate(zip(continued, prompt_index, strict=True)):
        if length:
            branches[owner].append(row)
    branches = branches or {0: []}
    texts = {owner: (prompts[owner], *(continued[row] for row in rows)) for owner, rows in sorted(branches.items())}
    return texts, branches, continued


def _spans(starts: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """start, start + 1, ... of each span, one after another."""
    return torch.arange(int(lengths.sum())) + (starts - lengths.cumsum(0) + lengths).repeat_interleave(lengths)
