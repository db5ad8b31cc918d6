"""Hidden states and the output head apart, so that a loss projects only the positions it needs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from workbench.errors import ModelError
from workbench.models.llama import Llama
from workbench.models.packing import lay_out, pack_rows
from workbench.objectives.masking import join_prompt_completion, length_mask, packed_mask
from workbench.objectives.masking import position_ids as counted_positions

PACKABLE = ("gemma", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3")
"""Model types of transformers whose every layer is attention under the mask that is handed over."""


@dataclass(frozen=True)
class HeadInputs:
    """hidden: (B, T, H) after the final norm. weight: (V, H); None: hidden already is the logits (B, T, V).

    It is the logits where a model does more to them than a linear head (Gemma 2's soft caps). Asked for states=True,
    hidden is the states in any case, for a value head; logits cannot be made of those without a weight.
    """

    hidden: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None = None


def forward_to_head(
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    *,
    states: bool = False,
) -> HeadInputs:
    """One pass up to the output head, through model.forward, so that a DDP wrapper sees it.

    input_ids: (B, T). attention_mask: (B, T), true at real tokens; None: all are. Padding on the right is not computed:
    rows are laid end to end, and their outputs brought back to their places (0 at padding). position_ids: (B, T)
    without a mask is of packed rows: it restarts at 0 with each text, and texts do not see one another. states: hidden
    must be states, never logits.
    """
    inner = _unwrapped(model)
    if position_ids is not None and attention_mask is None:
        return _packed(model, inner, input_ids, position_ids, states)
    if attention_mask is None:
        return _whole(model, inner, states, input_ids)
    real = attention_mask.bool()
    right_padded = bool(real[:, 0].all() & (real[:, 1:] <= real[:, :-1]).all())
    if position_ids is not None or not right_padded:
        if position_ids is None:
            # Not every model counts them itself; one with absolute positions would shift left-padded rows.
            position_ids = counted_positions(attention_mask)
        return _whole(model, inner, states, input_ids, attention_mask=attention_mask, position_ids=position_ids)
    lengths: list[int] = real.sum(1).tolist()
    if sum(lengths) == input_ids.numel():
        return _whole(model, inner, states, input_ids)
    if isinstance(inner, Llama):
        # Rows of one length side by side are attended to in one call.
        order = torch.tensor(sorted(range(len(lengths)), key=lengths.__getitem__), device=real.device)
        rows, columns = real[order].nonzero(as_tuple=True)
        places = (order[rows], columns)
        found = _whole(model, inner, states, input_ids[places][None], texts=[(lengths[row],) for row in order.tolist()])
        hidden = found.hidden.new_zeros(*input_ids.shape, found.hidden.shape[-1])
        return replace(found, hidden=hidden.index_put(places, found.hidden[0]))
    if _can_be_packed(inner, max(lengths)):
        packing = pack_rows(lengths, input_ids.shape[1])
        found = _packed(
            model, inner, input_ids.flatten()[packing.source.to(real.device)], packing.positions.to(real.device), states
        )
        hidden = found.hidden.flatten(0, 1)[packing.taken.to(real.device)]
        return replace(found, hidden=hidden.masked_fill(~real[..., None], 0.0))
    width = max(lengths)  # causality hides padding on the right from every real token
    found = _whole(model, inner, states, input_ids[:, :width])
    return replace(found, hidden=functional.pad(found.hidden, (0, 0, 0, input_ids.shape[1] - width)))


def forward_completions(
    model: torch.nn.Module,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    prompt_of: torch.Tensor,
    *,
    states: bool = False,
) -> HeadInputs:
    """What predicts each token of the completions: hidden (M, H), completion by completion in the order given.

    prompt_ids, prompt_mask: (P, Lp); completion_ids, completion_mask: (N, Lc) without the prompt; padding anywhere.
    prompt_of: (N,), which prompt each continues, in any order. A completion without a token gives no vector. Our own
    forward computes a prompt once for all of its completions, and no completion's last token, which predicts none.
    states: as forward_to_head's. Raises ModelError for a completion of an empty prompt.
    """
    inner = _unwrapped(model)
    prompt_mask, completion_mask = prompt_mask.bool(), completion_mask.bool()
    prompt_lengths: list[int] = prompt_mask.sum(1).tolist()
    lengths: list[int] = completion_mask.sum(1).tolist()
    owners: list[int] = prompt_of.tolist()
    for row, (length, owner) in enumerate(zip(lengths, owners, strict=True)):
        if length and not prompt_lengths[owner]:
            raise ModelError(f"completion {row}: its prompt {owner} is empty, so nothing predicts its first token")
    if isinstance(inner, Llama):
        layout = lay_out(prompt_lengths, lengths, owners)
        tokens = torch.cat((prompt_ids[prompt_mask], completion_ids[completion_mask]))
        found = _whole(model, inner, states, tokens[layout.source.to(tokens.device)][None], texts=layout.texts)
        return replace(found, hidden=found.hidden[0, layout.predictors.to(tokens.device)])
    input_ids, row_lengths, scored = join_prompt_completion(
        prompt_ids[prompt_of], prompt_mask[prompt_of], completion_ids, completion_mask
    )
    found = forward_to_head(model, input_ids, length_mask(row_lengths, input_ids.shape[1]), states=states)
    return replace(found, hidden=found.hidden[:, :-1][scored[:, 1:]])


def _packed(
    model: torch.nn.Module, inner: torch.nn.Module, input_ids: torch.Tensor, position_ids: torch.Tensor, states: bool
) -> HeadInputs:
    if not isinstance(inner, Llama):
        if not _can_be_packed(inner, int(position_ids.max()) + 1):
            kind = getattr(getattr(inner, "config", None), "model_type", type(inner).__name__)
            raise ModelError(f"packed rows: {kind} is not known to keep their texts apart; give rows with a mask")
        mask = packed_mask(position_ids)
        return _whole(model, inner, states, input_ids, attention_mask=mask, position_ids=position_ids)
    starts = (position_ids.flatten() == 0).nonzero().flatten().tolist()
    lengths = [end - start for start, end in itertools.pairwise([*starts, input_ids.numel()])]
    found = _whole(model, inner, states, input_ids.view(1, -1), texts=[(length,) for length in lengths])
    return replace(found, hidden=found.hidden.view(*input_ids.shape, -1))


def _whole(
    model: torch.nn.Module, inner: torch.nn.Module, states: bool, input_ids: torch.Tensor, **arguments: Any
) -> HeadInputs:
    """The model's own call, as it is asked."""
    if isinstance(inner, Llama):
        output = model(input_ids, project=False, **arguments)
        return HeadInputs(output.hidden_states, inner.output_weight)
    config, head = getattr(inner, "config", None), output_head(inner)
    linear = config is not None and head is not None and not _changes_logits(config)
    if not linear and not states:
        output = model(input_ids, **arguments)
        return HeadInputs(output if isinstance(output, torch.Tensor) else output.logits, None)
    if config is None:
        raise ModelError(f"a value head needs hidden states, which a {type(inner).__name__} without a config hides")
    output = model(input_ids, **arguments, output_hidden_states=True, logits_to_keep=1, use_cache=False)
    hidden = output.hidden_states[-1]
    return HeadInputs(hidden, head.weight, head.bias) if linear and head is not None else HeadInputs(hidden, None)


def hidden_size(model: torch.nn.Module) -> int:
    """H of the states that forward_to_head(states=True) gives: what a value head takes."""
    inner = _unwrapped(model)
    find = getattr(inner, "get_output_embeddings", None)
    size = getattr(find() if callable(find) else None, "in_features", None)
    if size is None:
        raise ModelError(
            f"a value head needs to know the width of the hidden states, and {type(inner).__name__} tells "
            "of no output head; take a causal language model"
        )
    return int(size)


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    return model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model


def _can_be_packed(model: torch.nn.Module, longest: int) -> bool:
    """Whether the model takes positions and a mask of its own, and its attention is no narrower than that mask."""
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in PACKABLE or getattr(config, "_attn_implementation", "") != "sdpa":
        return False
    window = getattr(config, "sliding_window", None)
    return window is None or window >= longest


def computes_prompts_once(model: torch.nn.Module) -> bool:
    """Whether forward_completions computes a prompt once for all of its completions."""
    return isinstance(_unwrapped(model), Llama)


def projects_everything(model: torch.nn.Module) -> bool:
    """Whether logits are made at every position, for the model does more to them than a linear head."""
    inner = _unwrapped(model)
    config = getattr(inner, "config", None)
    return not isinstance(inner, Llama) and (config is None or output_head(inner) is None or _changes_logits(config))


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
