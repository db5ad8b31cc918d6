"""Hidden states and the output head apart, so that a loss projects only the positions it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from workbench.models.llama import Llama
from workbench.objectives.masking import position_ids as counted_positions


@dataclass(frozen=True)
class HeadInputs:
    """hidden: (B, T, H) after the final norm. weight: (V, H); None: hidden already is the logits (B, T, V)."""

    hidden: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None = None


def forward_to_head(
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
) -> HeadInputs:
    """One pass up to the output head, through model.forward, so that a DDP wrapper sees it.

    input_ids: (B, T). Right-padded rows of our own Llama need no mask: causality hides their padding.
    """
    inner = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
    if isinstance(inner, Llama):
        output = model(input_ids, attention_mask=attention_mask, position_ids=position_ids, project=False)
        return HeadInputs(output.hidden_states, inner.output_weight)
    arguments: dict[str, Any] = {} if attention_mask is None else {"attention_mask": attention_mask}
    if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
        # Not every model counts them itself; one with absolute positions would shift left-padded rows.
        position_ids = counted_positions(attention_mask)
    if position_ids is not None:
        arguments["position_ids"] = position_ids
    config, head = getattr(inner, "config", None), output_head(inner)
    if config is None or head is None or _changes_logits(config):
        output = model(input_ids, **arguments)
        return HeadInputs(output if isinstance(output, torch.Tensor) else output.logits, None)
    output = model(input_ids, **arguments, output_hidden_states=True, logits_to_keep=1, use_cache=False)
    return HeadInputs(output.hidden_states[-1], head.weight, head.bias)


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


def _changes_logits(config: Any) -> bool:
    """Whether the model does more to its logits than a linear head (soft caps, scalings)."""
    return any(getattr(config, name, None) for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"))
