"""Prefill and single-token steps of a batch: our own Llama's fast ones, those of a model's own cache, and none.

P prompts, R rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from workbench.generation.cuda_graph import GraphDecoder
from workbench.models.cached_decoder import ModelDecoder
from workbench.models.llama import Llama
from workbench.models.llama_decoder import LlamaDecoder, LlamaWeights, can_decode
from workbench.models.outputs import forward_to_head
from workbench.models.probe import verdict_of
from workbench.objectives.masking import length_mask


class Decoder(Protocol):
    """The state of one batch being generated."""

    drops_rows: bool
    """Whether the decoder has select_rows."""

    def prefill(self, prompts: Sequence[Sequence[int]], repeats: int) -> torch.Tensor:
        """Logits after each prompt, (P x repeats, V), a prompt's rows side by side. Called once, first."""

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits after one more token a row, (R, V). tokens: (R,)."""

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keep the rows named, in ascending order; finished ones are dropped."""


def decoder_of(model: torch.nn.Module) -> type[RecomputingDecoder | ModelDecoder | LlamaDecoder]:
    """The decoder that the model is sampled by; on a GPU steps of the last are recorded."""
    if not verdict_of(model).cache:
        return RecomputingDecoder
    return LlamaDecoder if can_decode(model) else ModelDecoder


def decoders(model: torch.nn.Module, num_rows: int) -> Callable[[int], Decoder]:
    """make(max_new_tokens) -> the decoder of one batch. num_rows: of a typical batch. Weights are those of now."""
    kind = decoder_of(model)
    if kind is RecomputingDecoder:
        return lambda max_new_tokens: RecomputingDecoder(model)
    if kind is ModelDecoder:
        return lambda max_new_tokens: ModelDecoder(model, max_new_tokens)
    assert isinstance(model, Llama)
    weights = LlamaWeights(model, num_rows)
    if weights.device.type == "cuda":
        return lambda max_new_tokens: GraphDecoder(LlamaDecoder(weights, max_new_tokens, static=True))
    return lambda max_new_tokens: LlamaDecoder(weights, max_new_tokens)


class RecomputingDecoder:
    """The decoder of a model whose cache cannot be used: every step computes the rows anew."""

    drops_rows = True

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._rows: list[list[int]] = []

    def prefill(self, prompts: Sequence[Sequence[int]], repeats: int) -> torch.Tensor:
        """Logits after each prompt, (P x repeats, V), a prompt's rows side by side: it is computed once."""
        self._rows = [list(prompt) for prompt in prompts]
        logits = self._logits()
        self._rows = [list(prompt) for prompt in prompts for _ in range(repeats)]
        return logits.repeat_interleave(repeats, 0)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits after one more token a row, (R, V). tokens: (R,)."""
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            row.append(token)
        return self._logits()

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keep the rows named, in ascending order; finished ones are dropped."""
        self._rows = [self._rows[row] for row in rows.tolist()]

    def _logits(self) -> torch.Tensor:
        device = next(self._model.parameters()).device
        lengths = torch.tensor([len(row) for row in self._rows], device=device)
        texts = [torch.tensor(row, device=device) for row in self._rows]
        input_ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        found = forward_to_head(self._model, input_ids, length_mask(lengths, input_ids.shape[1]))
        last = found.hidden[torch.arange(len(texts), device=device), lengths - 1]
        return last if found.weight is None else torch.nn.functional.linear(last, found.weight, found.bias)
