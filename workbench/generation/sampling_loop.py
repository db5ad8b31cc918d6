"""One batch from its prompts to its samples.

R rows of the batch, N samples in all, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workbench.generation.decoding import Decoder
from workbench.generation.draw import draw, draw_scored, mix
from workbench.generation.sampling import SamplingSettings

DROP_BELOW = 0.75
"""Finished rows are dropped from the batch once fewer than this share of its rows still run."""


@dataclass(frozen=True)
class Samples:
    """Completions as tensors on the model's device, with what training asks of them.

    N rows, a prompt's samples side by side; L tokens of the longest completion. An entry after a row's end is 0.
    """

    completion_ids: torch.Tensor
    """(N, L) int64."""
    lengths: torch.Tensor
    """(N,) int64: tokens of each, its end-of-sequence token included."""
    ended: torch.Tensor
    """(N,) bool: an end-of-sequence token was sampled, else it was cut at max_new_tokens."""
    logprobs: torch.Tensor
    """(N, L) float32, nats: of each token under the distribution it was drawn from, temperature, top_k and top_p in."""
    entropies: torch.Tensor
    """(N, L) float32, nats: of the whole distribution at the sampling temperature, before top_k and top_p."""


@dataclass(frozen=True)
class Task:
    """What is asked of every batch. settings: None decodes greedily. scored: with log-probabilities and entropies."""

    settings: SamplingSettings | None
    max_new_tokens: int
    eos_ids: Sequence[int]
    num_samples: int
    scored: bool


def rollout(decoder: Decoder, prompts: list[Sequence[int]], seeds: list[int], task: Task) -> Samples:
    """The samples of each prompt side by side; without logprobs and entropies (width 0) where it is not `scored`."""
    limit = task.max_new_tokens
    logits = decoder.prefill(prompts, task.num_samples)
    device, num_rows = logits.device, len(logits)
    row_seeds = torch.tensor(seeds, dtype=torch.int64, device=device).repeat_interleave(task.num_samples)
    row_seeds = mix(row_seeds, torch.arange(task.num_samples, device=device).repeat(len(prompts)))
    ends = torch.tensor(list(task.eos_ids), dtype=torch.int64, device=device)
    # Step by step, (limit, N): what is written in a row after its end is taken out again below.
    completion_ids = torch.zeros(limit, num_rows, dtype=torch.int64, device=device)
    alive = torch.zeros(limit, num_rows, dtype=torch.bool, device=device)
    scores = torch.zeros(2, limit if task.scored else 0, num_rows, device=device)
    active = torch.arange(num_rows, device=device)  # the sample of each row of the batch
    running = torch.ones(num_rows, dtype=torch.bool, device=device)  # which of the batch's rows have not ended
    for position in range(limit):
        if task.scored:
            assert task.settings is not None
            tokens, scored = draw_scored(logits, task.settings, row_seeds, position)
            scores[0, position].index_copy_(0, active, scored.logprobs)
            scores[1, position].index_copy_(0, active, scored.entropies)
        else:
            tokens = draw(logits, task.settings, row_seeds, position)
        completion_ids[position].index_copy_(0, active, tokens)
        alive[position].index_copy_(0, active, running)
        if position + 1 == limit:
            break
        if len(ends):
            running = running & (tokens[:, None] != ends).all(-1)
            count = int(running.sum())
            if not count:
                break
            if decoder.drops_rows and count < DROP_BELOW * len(active):
                kept = running.nonzero().flatten()
                decoder.select_rows(kept)
                active, tokens, row_seeds, running = (part[kept] for part in (active, tokens, row_seeds, running))
        logits = decoder.step(tokens)
    lengths = alive.sum(0)
    width = int(lengths.max())
    last = completion_ids.gather(0, lengths[None] - 1)[0]
    alive = alive[:width].T
    logprobs, entropies = (score[:width].T.where(alive, 0.0) if task.scored else score.T for score in scores)
    return Samples(completion_ids[:width].T.where(alive, 0), lengths, torch.isin(last, ends), logprobs, entropies)
