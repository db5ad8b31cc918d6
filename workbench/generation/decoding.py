"""A model's prefill and single-token steps over a KV cache, our own Llama and transformers' models alike.

R rows, T positions, V vocabulary. Rows are padded on the left, so that all of them end at the same place.
"""

from __future__ import annotations

from typing import Any

import torch

from workbench.models.llama import KVCache, Llama


class Decoder:
    """The state of one batch being generated."""

    def __init__(self, model: torch.nn.Module, capacity: int) -> None:
        """capacity: positions of the longest prompt and completion together."""
        self._model: Any = model
        self._own = isinstance(model, Llama)
        self._cache: Any = KVCache(capacity) if self._own else _transformers_cache(model)
        self._mask: torch.Tensor | None = None

    def prefill(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits after each prompt, (R, V). input_ids, mask: (R, T), mask true at real tokens."""
        if not self._own or not bool(mask.all()):
            self._mask = mask.long()
        return self._forward(input_ids)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits after one more token a row, (R, V). tokens: (R,)."""
        if self._mask is not None:
            self._mask = torch.cat((self._mask, self._mask.new_ones(len(tokens), 1)), 1)
        return self._forward(tokens[:, None])

    def repeat_rows(self, repeats: int) -> None:
        """Each row `repeats` times, side by side: one prefill of a prompt serves all of its samples."""
        if repeats == 1:
            return
        if self._own:
            self._cache.repeat_rows(repeats)
        else:
            self._cache.batch_repeat_interleave(repeats)
        if self._mask is not None:
            self._mask = self._mask.repeat_interleave(repeats, 0)

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keep the rows named; finished ones are dropped."""
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


def _transformers_cache(model: Any) -> Any:
    import transformers

    return transformers.DynamicCache(config=model.config)
