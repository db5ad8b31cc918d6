"""One call of a model that is not our own: its logits, what its output head is given, the logits of last positions.

B rows, T positions, H width of the head's input, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model within DDP's wrapper."""
    return model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model


def output_head(model: torch.nn.Module) -> torch.nn.Linear | None:
    """The layer that makes logits, as transformers names it; None where a model tells of none."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    return head if isinstance(head, torch.nn.Linear) else None


def input_embedding(model: torch.nn.Module) -> torch.nn.Embedding | None:
    """The token embedding, as transformers names it; None where a model tells of none."""
    find = getattr(model, "get_input_embeddings", None)
    embedding = find() if callable(find) else None
    return embedding if isinstance(embedding, torch.nn.Embedding) else None


def takes(model: torch.nn.Module, argument: str) -> bool:
    """Whether the model's forward has an argument of that name."""
    return argument in inspect.signature(unwrapped(model).forward).parameters


def logits_of(model: torch.nn.Module, input_ids: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """(B, T, V), as the model makes them. input_ids: (B, T); arguments: the model's own."""
    if takes(model, "use_cache"):
        # Some families keep what they would cache in the model itself.
        arguments = {"use_cache": False, **arguments}
    output = model(input_ids, **arguments)
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
    return logits


def head_inputs(model: torch.nn.Module, input_ids: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """What the output head is given at every position, (B, T, H); the head itself projects the last position alone."""
    with _LastProjected(model) as taken:
        logits_of(model, input_ids, **arguments)
    (states,) = taken.states
    return states


def last_logits(model: torch.nn.Module, input_ids: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """(B, V): the logits of each row's last position, with whatever the model does to them after its head."""
    with _LastProjected(model):
        return logits_of(model, input_ids, **arguments)[:, -1]


class _LastProjected:
    """While it is entered, the model's output head computes the last position alone. A model whose logits come from
    elsewhere is not changed, and leaves states empty."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.states: list[torch.Tensor] = []
        self._head = output_head(unwrapped(model))

    def __enter__(self) -> _LastProjected:
        if self._head is not None:
            self._handle = self._head.register_forward_pre_hook(self._take)
        return self

    def __exit__(self, *_: object) -> None:
        if self._head is not None:
            self._handle.remove()

    def _take(self, _: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        self.states.append(inputs[0])
        return (inputs[0][:, -1:],)


def config_field(config: Any, name: str) -> Any:
    """The field of a configuration. It is None where there is none, or another in each layer, which transformers tells
    by an error of its own."""
    try:
        return getattr(config, name, None)
    except Exception:  # of a kind that only its newer releases have
        return None
