"""Sampling with a KV cache: one prefill a prompt, finished rows dropped, the same completions whatever the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import DataError
from workbench.generation.decoding import Decoder
from workbench.generation.draw import draw, mix
from workbench.generation.mode import evaluation_mode
from workbench.generation.sampling import SamplingSettings
from workbench.models.llama import Llama
from workbench.models.tokenizer import Tokenizer

CACHE_BYTES = 512 << 20
LOGITS_ELEMENTS = 1 << 23
MAX_ROWS = 256
DROP_BELOW = 0.75
"""Finished rows are dropped from the batch once fewer than this share of its rows still run."""


@dataclass(frozen=True, slots=True)
class Completion:
    """token_ids: the end-of-sequence token included where `ended`, else sampling was cut at max_new_tokens."""

    token_ids: list[int]
    ended: bool


def completion_texts(tokenizer: Tokenizer, completions: Sequence[Completion]) -> list[str]:
    """Text of each without its end-of-sequence token; any other special token is shown: it is part of the answer."""
    rows = [c.token_ids[:-1] if c.ended else c.token_ids for c in completions]
    return tokenizer.decode_batch(rows, skip_special_tokens=False)


def row_seed(seed: int, identity: str) -> int:
    """The seed of one prompt's samples, from its identity alone: wherever it is met, it is answered the same."""
    digest = hashlib.sha256(f"{seed} {identity}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


@torch.no_grad()
def generate(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    settings: SamplingSettings | None,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    num_samples: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[list[Completion]]:
    """`num_samples` completions of each prompt (token ids, none empty), in the prompts' order.

    seeds: one a prompt (see row_seed). settings: None decodes greedily. on_progress: called with prompts done and all.
    """
    assert all(len(prompt) for prompt in prompts), "a prompt needs at least one token to be continued"
    _check_room(model, max((len(prompt) for prompt in prompts), default=0), max_new_tokens)
    found: list[list[Completion]] = [[] for _ in prompts]
    done = 0
    with evaluation_mode(model):
        # By length, so that rows that are batched together need little padding.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for batch in _batches(model, order, prompts, max_new_tokens, num_samples):
            chosen = [prompts[index] for index in batch]
            completions = _generate_batch(
                model, chosen, [seeds[index] for index in batch], settings, max_new_tokens, eos_ids, num_samples
            )
            for position, index in enumerate(batch):
                found[index] = completions[position * num_samples : (position + 1) * num_samples]
            done += len(batch)
            if on_progress:
                on_progress(done, len(prompts))
    return found


def _check_room(model: Any, longest: int, max_new_tokens: int) -> None:
    """Our own Llama turns any position; others may hold a table of them, and would fail in the middle of it."""
    room = None if isinstance(model, Llama) else getattr(model.config, "max_position_embeddings", None)
    if room is not None and longest + max_new_tokens > room:
        raise DataError(
            f"sampling: a prompt of {longest:,} tokens and {max_new_tokens:,} new ones are more than the model's "
            f"{room:,} positions; ask for fewer new tokens, or leave the longest prompts out"
        )


def _batches(
    model: Any, order: list[int], prompts: Sequence[Sequence[int]], max_new_tokens: int, num_samples: int
) -> Iterator[list[int]]:
    """Slices of the order that keep the cache and the logits within bounds."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    position_bytes = 2 * 4 * config.num_hidden_layers * heads * size
    start = 0
    while start < len(order):
        # Prompts are in order of length, so the longest that could join the batch is MAX_ROWS further on.
        longest = len(prompts[order[min(start + MAX_ROWS, len(order)) - 1]])
        rows = min(
            MAX_ROWS,
            CACHE_BYTES // (position_bytes * (longest + max_new_tokens)),
            LOGITS_ELEMENTS // config.vocab_size,
        )
        width = max(1, rows // num_samples)
        yield order[start : start + width]
        start += width


def _generate_batch(
    model: torch.nn.Module,
    prompts: list[Sequence[int]],
    seeds: list[int],
    settings: SamplingSettings | None,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    num_samples: int,
) -> list[Completion]:
    """The samples of each prompt side by side."""
    device = next(model.parameters()).device
    input_ids, mask = _left_padded(prompts, device)
    decoder = Decoder(model, input_ids.shape[1] + max_new_tokens)
    logits = decoder.prefill(input_ids, mask).repeat_interleave(num_samples, 0)
    decoder.repeat_rows(num_samples)
    row_seeds = torch.tensor(seeds, dtype=torch.int64, device=device).repeat_interleave(num_samples)
    row_seeds = mix(row_seeds, torch.arange(num_samples, device=device).repeat(len(prompts)))
    ends = torch.tensor(list(eos_ids), dtype=torch.int64, device=device)
    num_rows = len(prompts) * num_samples
    tokens_out = torch.zeros(num_rows, max_new_tokens, dtype=torch.int64, device=device)
    lengths = torch.full((num_rows,), max_new_tokens, device=device)
    ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
    active = torch.arange(num_rows, device=device)  # the output row of each row of the batch
    for position in range(max_new_tokens):
        tokens = draw(logits, settings, row_seeds[active], position)
        running = ~ended[active]
        tokens_out[active[running], position] = tokens[running]
        finished = active[torch.isin(tokens, ends) & running]
        ended[finished] = True
        lengths[finished] = position + 1
        running = ~ended[active]
        count = int(running.sum())
        if not count or position + 1 == max_new_tokens:
            break
        if count < DROP_BELOW * len(active):
            kept = running.nonzero().flatten()
            decoder.select_rows(kept)
            active, tokens = active[kept], tokens[kept]
        logits = decoder.step(tokens)
    return [
        Completion(row[:length], end)
        for row, length, end in zip(tokens_out.tolist(), lengths.tolist(), ended.tolist(), strict=True)
    ]


def _left_padded(prompts: list[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, torch.arange(width, device=device) >= width - lengths[:, None]
