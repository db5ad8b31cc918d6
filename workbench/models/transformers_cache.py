"""A cache for transformers' models that writes a step in place.

Theirs makes all keys and values anew at every step; on a CPU that took 60% of a small GPT-2's sampling. Import it late:
it loads transformers.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, the beginning of tensors that have room for all positions to come."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._room: list[torch.Tensor | None] = [None, None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append key_states and value_states (rows, heads, new, size); all of them come back."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys = self._appended(0, self.keys, key_states)
        self.values = self._appended(1, self.values, value_states)
        return self.keys, self.values

    def _appended(self, index: int, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        length = held.shape[2] if held.numel() else 0
        end = length + new.shape[2]
        room = self._room[index]
        # Rows that were dropped or repeated since lie somewhere else.
        if room is None or not length or room.data_ptr() != held.data_ptr() or end > room.shape[2]:
            rows, heads, _, size = new.shape
            room = new.new_empty(rows, heads, max(self._capacity, end), size)
            if length:
                room[:, :, :length] = held
            self._room[index] = room
        room[:, :, length:end] = new
        return room[:, :, :end]


def roomy_cache(model: Any, capacity: int) -> Any:
    """transformers' own cache for the model, its plain layers with room for `capacity` positions."""
    cache = transformers.DynamicCache(config=model.config)
    # A sliding window or a state of another kind stays as it is.
    cache.layers = [RoomyLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
