"""Prefill and single-token steps of a batch: our own Llama's fast ones, and those of any model's own forward.

P prompts, R rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from workbench.generation.cuda_graph import GraphDecoder
from workbench.generation.llama_decoder import LlamaDecoder, LlamaWeights, can_decode
from workbench.models.llama import KVCache, Llama


class Decoder(Protocol):
    """The state of one batch being generated."""

    drops_rows: bool
    """Whether select_rows is there."""

    def prefill(self, prompts: Sequence[Sequence[int]], repeats: int) -> torch.Tensor:
        """Logits after each prompt, (P x repeats, V), a prompt's rows side by side. Called once, first."""

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits after one more token a row, (R, V). tokens: (R,)."""

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keep the rows named, in ascending order; finished ones are dropped."""


def decoders(model: torch.nn.Module, num_rows: int) -> Callable[[int], Decoder]:
    """make(max_new_tokens) -> the decoder of one batch. num_rows: of a typical batch. Weights are those of now."""
    if not can_decode(model):
        return lambda max_new_tokens: ModelDecoder(model, max_new_tokens)
    assert isinstance(model, Llama)
    weights = LlamaWeights(model, num_rows)
    if weights.device.type == "cuda":
        return lambda max_new_tokens: GraphDecoder(LlamaDecoder(weights, max_new_tokens, static=True))
    return lambda max_new_tokens: LlamaDecoder(weights, max_new_tokens)


class ModelDecoder:
    """Of any model, by its own forward and cache. Rows are padded on the left, so that all end at the same place."""

    drops_rows = True

    def __init__(self, model: torch.nn.Module, max_new_tokens: int) -> None:
        self._model: Any = model
        self._own = isinstance(model, Llama)
        self._new = max_new_tokens
        self._cache: Any = None
        self._mask: torch.Tensor | None = None

    def prefill(self, prompts: Sequence[Sequence[int]], repeats: int) -> torch.Tensor:
        """Logits after each prompt, (P x repeats, V), a prompt's rows side by side: it is computed once."""
        input_ids, mask = _left_padded(prompts, next(self._model.parameters()).device)
        capacity = input_ids.shape[1] + self._new
        self._cache = KVCache(capacity) if self._own else _roomy_cache(self._model, capacity)
        if not self._own or not bool(mask.all()):
            self._mask = mask.long()
        logits = self._forward(input_ids)
        if repeats == 1:
            return logits
        if self._own:
            self._cache.repeat_rows(repeats)
        else:
            self._cache.batch_repeat_interleave(repeats)
        if self._mask is not None:
            self._mask = self._mask.repeat_interleave(repeats, 0)
        return logits.repeat_interleave(repeats, 0)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits after one more token a row, (R, V). tokens: (R,)."""
        if self._mask is not None:
            self._mask = torch.cat((self._mask, self._mask.new_ones(len(tokens), 1)), 1)
        return self._forward(tokens[:, None])

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keep the rows named, in ascending order; finished ones are dropped."""
        if self._own:
            self._cache.select_rows(rows)
        else:
            self._cache.batch_select_indices(rows)
        if self._mask is not None:
            self._mask = self._mask[rows]

    def _forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if self._own:
            output = self._model(
                input_ids, attention_mask=self._mask, past_key_values=self._cache, use_cache=True, project=False
            )
            return self._model.lm_head(output.hidden_states[:, -1])
        assert self._mask is not None
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        output = self._model(
            input_ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]


def _roomy_cache(model: Any, capacity: int) -> Any:
    from workbench.generation.transformers_cache import roomy_cache

    return roomy_cache(model, capacity)


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, torch.arange(width, device=device) >= width - lengths[:, None]
