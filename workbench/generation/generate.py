"""Sampling with a KV cache: one prefill a prompt, finished rows dropped, the same completions whatever the batch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from workbench.errors import ModelError
from workbench.generation.decoding import decoders
from workbench.generation.sampling import SamplingSettings
from workbench.generation.sampling_loop import Samples, Task, rollout
from workbench.models.mode import evaluation_mode
from workbench.models.passes import config_field
from workbench.models.positions import find_positions
from workbench.models.probe import verdict_of
from workbench.models.tokenizer import Tokenizer

CACHE_BYTES = 512 << 20
LOGITS_ELEMENTS = 1 << 23
MAX_ROWS = 256


@dataclass(frozen=True, slots=True)
class Completion:
    """completion_ids: the end-of-sequence token included where `ended`, else sampling was cut at max_new_tokens."""

    completion_ids: list[int]
    ended: bool


def completion_texts(tokenizer: Tokenizer, completions: Sequence[Completion]) -> list[str]:
    """Text of each without its end-of-sequence token; any other special token is shown: it is part of the answer."""
    rows = [c.completion_ids[:-1] if c.ended else c.completion_ids for c in completions]
    return tokenizer.decode_batch(rows, skip_special_tokens=False)


def row_seed(seed: int, identity: str) -> int:
    """The seed of one prompt's samples. It follows from the prompt's identity alone, so the prompt is answered alike
    wherever it is met."""
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
    task = Task(settings, max_new_tokens, eos_ids, num_samples, scored=False)
    found: list[list[Completion]] = [[] for _ in prompts]
    for batch, rows in _rollouts(model, prompts, seeds, task, on_progress):
        told = zip(rows.completion_ids.tolist(), rows.lengths.tolist(), rows.ended.tolist(), strict=True)
        completions = [Completion(ids[:length], ended) for ids, length, ended in told]
        for position, index in enumerate(batch):
            found[index] = completions[position * num_samples : (position + 1) * num_samples]
    return found


@torch.no_grad()
def sample(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    settings: SamplingSettings,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    num_samples: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """The completions of generate (the same tokens) as tensors, with each token's log-probability and entropy."""
    assert len(prompts), "there is nothing to sample from"
    task = Task(settings, max_new_tokens, eos_ids, num_samples, scored=True)
    batches, parts = [], []
    for batch, rows in _rollouts(model, prompts, seeds, task, on_progress):
        batches += batch
        parts.append(rows)
    device = next(model.parameters()).device
    longest = max(part.completion_ids.shape[1] for part in parts)
    # Batches hold prompts in order of length; back to the order they were given in.
    places = torch.tensor(batches, dtype=torch.int64, device=device).argsort()[:, None] * num_samples
    places = (places + torch.arange(num_samples, device=device)).flatten()

    def joined(name: str) -> torch.Tensor:
        tensors = [getattr(part, name) for part in parts]
        if tensors[0].ndim == 2:
            tensors = [functional.pad(tensor, (0, longest - tensor.shape[1])) for tensor in tensors]
        return torch.cat(tensors)[places]

    return Samples(*(joined(field.name) for field in dataclasses.fields(Samples)))


def _rollouts(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    task: Task,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[list[int], Samples]]:
    """Batches of prompts, named by their places, and their samples."""
    assert all(len(prompt) for prompt in prompts), "a prompt needs at least one token to be continued"
    _check_room(model, max((len(prompt) for prompt in prompts), default=0), task.max_new_tokens)
    done = 0
    with evaluation_mode(model):
        make = decoders(model, min(MAX_ROWS, len(prompts) * task.num_samples))
        for batch in batches_of(model, prompts, task.max_new_tokens, task.num_samples):
            chosen, own_seeds = [prompts[index] for index in batch], [seeds[index] for index in batch]
            yield batch, rollout(make(task.max_new_tokens), chosen, own_seeds, task)
            done += len(batch)
            if on_progress:
                on_progress(done, len(prompts))


def _check_room(model: Any, longest: int, max_new_tokens: int) -> None:
    """Raises ModelError where a prompt and its longest completion have more tokens than the model has positions."""
    config = config_field(model, "config")
    if config is None:
        raise ModelError(
            f"sampling: a {type(model).__name__} has no config, by which its length and vocabulary are known; take a "
            "causal language model of transformers, or one that workbench.models.load.load_model gives"
        )
    positions = find_positions(config.to_dict())
    if positions is not None:
        where = f"sampling: a prompt of {longest:,} tokens and {max_new_tokens:,} new ones"
        positions.check(where, longest + max_new_tokens, "ask for fewer new tokens, or leave the longest prompts out")


def batches_of(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, num_samples: int
) -> Iterator[list[int]]:
    """Places of prompts, by length, so that rows that are batched together need little padding; as many as keep the
    cache and the logits within bounds."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    verdict, (position_bytes, vocabulary) = verdict_of(model), _sizes(model)
    start = 0
    while start < len(order):
        # Prompts are in order of length, so the longest that could join the batch is MAX_ROWS further on.
        longest = len(prompts[order[min(start + MAX_ROWS, len(order)) - 1]])
        # Without a cache, logits may be made at every position.
        projected = 1 if verdict.cache else longest + max_new_tokens
        rows = min(
            MAX_ROWS,
            CACHE_BYTES // (position_bytes * (longest + max_new_tokens)),
            LOGITS_ELEMENTS // (vocabulary * projected),
        )
        batch = order[start : start + max(1, rows // num_samples)]
        if verdict.cache and not verdict.padded_cache:
            batch = [index for index in batch if len(prompts[index]) == len(prompts[batch[0]])]
        yield batch
        start += len(batch)


def _sizes(model: Any) -> tuple[int, int]:
    """Bytes of a cached position, and the vocabulary. A family without heads of attention counts by its width."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    all_heads = config_field(config, "num_attention_heads") or 1
    size = config_field(config, "head_dim") or config.hidden_size // all_heads
    heads = config_field(config, "num_key_value_heads") or all_heads
    return 2 * 4 * config.num_hidden_layers * heads * size, config.vocab_size
