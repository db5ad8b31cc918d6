"""A rollout cut into the batches of its optimiser steps: passes over it, and minibatches of prompts."""

from __future__ import annotations

import numpy as np
import torch

from workbench.errors import DataError
from workbench.trainer.batches import Batch

FRESH = "fresh"
"""1 in the rows of a rollout's first update: no update lies between its sampling and it."""
COUNTED = ("units", "tokens")
PADDED = ("responses", "response_mask", "old_logprobs", "sampler_logprobs", "ref_logprobs")
"""Columns (N, T), cut to the longest response of each update."""


def cut_rollout(
    rows: Batch,
    learned: torch.Tensor,
    counted: torch.Tensor,
    passes: int,
    minibatches: int,
    order: np.random.Generator,
    padded: tuple[str, ...] = PADDED,
    *,
    fresh: bool = True,
) -> list[Batch]:
    """Update batches, `minibatches` a pass, each of whole prompts.

    rows: (N, ...) one a completion, with prompt_index, and with units and tokens (see Reduction). counted: (N,) bool,
    rows that the divisor counts. learned: (N,) bool, rows that are computed; the others' units are added to a row that
    is, so that leaving them out moves no number. fresh: whether the policy as it is has sampled them. Raises DataError
    where there are fewer prompts than minibatches.
    """
    prompts = rows["prompt_index"].unique().tolist()
    if len(prompts) < minibatches:
        raise DataError(f"{len(prompts)} prompts in this process cannot be cut into {minibatches} minibatches")
    owners = rows["prompt_index"].tolist()
    updates: list[Batch] = []
    for _ in range(passes):
        # In the order of sampling where nothing is cut; else a new order each pass.
        shuffled = prompts if minibatches == 1 else [prompts[index] for index in order.permutation(len(prompts))]
        for chosen in np.array_split(np.array(shuffled), minibatches):
            kept = set(chosen.tolist())
            places = [row for row, owner in enumerate(owners) if owner in kept]
            updates.append(_update(rows, places, learned, counted, padded, fresh=fresh and not updates))
    return updates


def _update(
    rows: Batch,
    places: list[int],
    learned: torch.Tensor,
    counted: torch.Tensor,
    padded: tuple[str, ...],
    *,
    fresh: bool,
) -> Batch:
    wanted = learned[places].tolist()
    computed = [place for place, is_learned in zip(places, wanted, strict=True) if is_learned]
    # Something must be computed: a row that counts, where there is one.
    computed = computed or [place for place in places if counted[place]][:1] or places[:1]
    width = max(1, int(rows["response_mask"][computed].sum(1).max()))
    batch = {name: value[computed] for name, value in rows.items()}
    batch |= {name: batch[name][:, :width] for name in padded if name in batch}
    # A row without units (cut, and left out of the loss) may be computed where nothing else is; it must not count.
    batch["response_mask"] = batch["response_mask"] & counted[computed][:, None]
    for name in COUNTED:
        left_out = rows[name][places].sum() - batch[name].sum()
        batch[name] = batch[name].clone()
        batch[name][0] += left_out
    batch[FRESH] = torch.full((len(computed),), float(fresh), device=batch["responses"].device)
    return batch
