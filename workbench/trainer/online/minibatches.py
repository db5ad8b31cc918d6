"""A rollout cut into the batches of its optimiser steps: passes over it, and minibatches of prompts."""

from __future__ import annotations

import numpy as np
import torch

from workbench.errors import DataError
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loop.sources import SOURCE

FRESH = "fresh"
"""1 in the rows of a rollout's first update: no update lies between its sampling and it."""
COUNTED = ("units", "tokens")
PADDED = (
    *("completion_ids", "completion_mask", "old_logprobs", "sampler_logprobs", "ref_logprobs"),
    *("advantages", "returns", "old_values"),
)
"""Columns that are cut to the longest completion of each update where they are (N, T)."""


def shuffled_parts(count: int, passes: int, parts: int, order: np.random.Generator) -> list[np.ndarray]:
    """The numbers below count in so many parts a pass: in their order where they are not cut, else shuffled anew."""
    return [
        part
        for _ in range(passes)
        for part in np.array_split(np.arange(count) if parts == 1 else order.permutation(count), parts)
    ]


def cut_rollout(
    rows: Batch,
    learned: torch.Tensor,
    counted: torch.Tensor,
    passes: int,
    minibatches: int,
    order: np.random.Generator,
    *,
    fresh: bool = True,
) -> list[Batch]:
    """Update batches, `minibatches` a pass, each of whole prompts.

    rows: (N, ...) one a completion, with prompt_index, and with units and tokens (see Reduction). counted: (N,) bool,
    rows that the divisor counts. learned: (N,) bool, rows that are computed; the others' units are added to a row of
    their source that is, so that leaving them out moves no number. fresh: whether the policy as it is has sampled them.
    Raises DataError where there are fewer prompts than minibatches.
    """
    prompts = rows["prompt_index"].unique().tolist()
    if len(prompts) < minibatches:
        raise DataError(f"{len(prompts)} prompts in this process cannot be cut into {minibatches} minibatches")
    owners = rows["prompt_index"].tolist()
    updates: list[Batch] = []
    for part in shuffled_parts(len(prompts), passes, minibatches, order):
        chosen = {prompts[place] for place in part}
        places = [row for row, owner in enumerate(owners) if owner in chosen]
        updates.append(_update(rows, places, learned, counted, fresh=fresh and not updates))
    return updates


def _computed(places: list[int], learned: torch.Tensor, counted: torch.Tensor) -> list[int]:
    """Picks the rows of a source that are computed. At least one must be: a row that counts, where there is one."""
    wanted = learned[places].tolist()
    computed = [place for place, is_learned in zip(places, wanted, strict=True) if is_learned]
    return computed or [place for place in places if counted[place]][:1] or places[:1]


def _update(
    rows: Batch,
    places: list[int],
    learned: torch.Tensor,
    counted: torch.Tensor,
    *,
    fresh: bool,
) -> Batch:
    sources = rows[SOURCE].tolist() if SOURCE in rows else [0] * len(learned)
    parts = [[place for place in places if sources[place] == source] for source in sorted(set(sources))]
    parts = [part for part in parts if part]
    chosen = [_computed(part, learned, counted) for part in parts]
    computed = sorted(place for part in chosen for place in part)
    width = max(1, int(rows["completion_mask"][computed].sum(1).max()))
    batch = {name: value[computed] for name, value in rows.items()}
    batch |= {name: value[:, :width] for name, value in batch.items() if name in PADDED and value.ndim == 2}
    # A row without units (cut, and left out of the loss) may be computed where nothing else is, and must not count.
    batch["completion_mask"] = batch["completion_mask"] & counted[computed][:, None]
    for name in COUNTED:
        batch[name] = batch[name].clone()
        for part, own in zip(parts, chosen, strict=True):
            batch[name][computed.index(own[0])] += rows[name][part].sum() - rows[name][own].sum()
    batch[FRESH] = torch.full((len(computed),), float(fresh), device=batch["completion_ids"].device)
    return batch
