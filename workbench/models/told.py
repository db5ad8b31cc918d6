"""What passes through our own entry points compute, told to a listener, which then does not hear the calls within."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Protocol

import torch


class Listener(Protocol):
    """Counts what is computed while it listens."""

    def hear_rows(self, model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        """forward_to_head of rows, as it takes them."""

    def hear_packed(self, model: torch.nn.Module, positions: torch.Tensor) -> None:
        """forward_to_head of packed rows at these positions."""

    def hear_completions(
        self, model: torch.nn.Module, prompts: torch.Tensor, lengths: torch.Tensor, prompt_index: torch.Tensor
    ) -> None:
        """Takes note of a call of forward_completions, as Work.of_completions takes it."""


_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


def listener() -> Listener | None:
    """Who listens to what is computed here and now; None: nobody, or the pass was told already."""
    return _LISTENER.get()


@contextmanager
def heard_by(found: Listener | None) -> Iterator[None]:
    """Lets one listen; None: what is computed within is counted elsewhere."""
    token: Token[Listener | None] = _LISTENER.set(found)
    try:
        yield
    finally:
        _LISTENER.reset(token)
