"""Single-token steps of a batch by a model's own forward and cache. P prompts, R rows, T positions, V vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from workbench.models.llama import KVCache, Llama
from workbench.models.passes import last_logits, takes


class ModelDecoder:
    """The decoder of any model, by the model's own forward and cache. Rows are padded on the left, so that all end at
    the same place."""

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
            rows = torch.arange(len(prompts), device=input_ids.device)
            # Beam search's method: every kind of layer has it, those that hold a state too.
            self._cache.reorder_cache(rows.repeat_interleave(repeats))
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
            self._cache.reorder_cache(rows)
        if self._mask is not None:
            self._mask = self._mask[rows]

    def _forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if self._own:
            output = self._model(
                input_ids, attention_mask=self._mask, past_key_values=self._cache, use_cache=True, project=False
            )
            return self._model.lm_head(output.hidden_states[:, -1])
        assert self._mask is not None
        arguments: dict[str, Any] = {"attention_mask": self._mask, "use_cache": True}
        if takes(self._model, "cache_params"):
            arguments["cache_params"] = self._cache
            if input_ids.shape[1] < self._mask.shape[1]:
                del arguments["attention_mask"]  # a state holds what came before: no padding is read any more
        else:
            arguments["past_key_values"] = self._cache
        if takes(self._model, "position_ids"):
            arguments["position_ids"] = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        return last_logits(self._model, input_ids, **arguments)


def _roomy_cache(model: Any, capacity: int) -> Any:
    from workbench.models.transformers_cache import roomy_cache

    return roomy_cache(model, capacity)


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, torch.arange(width, device=device) >= width - lengths[:, None]
