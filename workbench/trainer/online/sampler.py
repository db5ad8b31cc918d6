"""How completions of a batch's prompts are drawn: seeds, and where a completion ends."""

from __future__ import annotations

from typing import Any

import torch

from workbench.generation.generate import row_seed


def sampling_seeds(names: list[str], seed: int, step: int, round_number: int) -> list[int]:
    """A seed for each prompt: another one at every step, and where a prompt is met twice in a batch."""
    met: dict[str, int] = {}
    seeds = []
    for name in names:
        met[name] = met.get(name, 0) + 1
        seeds.append(row_seed(seed, f"step {step} round {round_number} {met[name]} {name}"))
    return seeds


def ends_of(tokenizer: Any, policy: torch.nn.Module) -> tuple[int, ...]:
    """Ids that end a completion: the tokenizer's, or without one those of the model's config."""
    if tokenizer is not None:
        return tokenizer.eos_ids
    found = getattr(getattr(policy, "config", None), "eos_token_id", None)
    return tuple(found) if isinstance(found, list | tuple) else () if found is None else (found,)


def judged_ids(completion_ids: torch.Tensor, lengths: torch.Tensor, ended: torch.Tensor) -> list[list[int]]:
    """The completions without the end-of-sequence token, which is no part of the answer's text."""
    shown = (lengths - ended.long()).tolist()
    return [row[:length] for row, length in zip(completion_ids.tolist(), shown, strict=True)]


def ids_of(tokens: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    """The real tokens of each row."""
    return [row[kept].tolist() for row, kept in zip(tokens, mask, strict=True)]
