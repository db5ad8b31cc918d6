"""Hidden states and the output head apart, so that a loss projects only the positions it needs."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from workbench.errors import ModelError
from workbench.models.llama import Llama
from workbench.models.packing import lay_out, pack_rows
from workbench.models.passes import head_inputs, logits_of, output_head, unwrapped
from workbench.models.probe import verdict_of
from workbench.models.told import heard_by, listener
from workbench.objectives.masking import join_prompt_completion, length_mask, packed_mask

_WINDOW = re.compile("(window|window_size|chunk_size|local_attention)$")
"""Names of a configuration's fields that may bound how far a token looks back, which a mask of ours would not."""


@dataclass(frozen=True)
class HeadInputs:
    """hidden: (B, T, H), what the head is given. weight: (V, H); None: hidden already is the logits (B, T, V).

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
    inner, heard = unwrapped(model), listener()
    if heard is not None:
        if position_ids is not None and attention_mask is None:
            heard.hear_packed(inner, position_ids)
        else:
            heard.hear_rows(inner, input_ids, attention_mask)
        with heard_by(None):
            return forward_to_head(model, input_ids, attention_mask, position_ids, states=states)
    if position_ids is not None and attention_mask is None:
        return _packed(model, inner, input_ids, position_ids, states)
    if attention_mask is None:
        return _whole(model, inner, states, input_ids)
    real = attention_mask.bool()
    if position_ids is not None:
        return _whole(model, inner, states, input_ids, attention_mask=attention_mask, position_ids=position_ids)
    lengths: list[int] = real.sum(1).tolist()
    if sum(lengths) == input_ids.numel():
        return _together(model, inner, states, input_ids)
    if isinstance(inner, Llama):
        # Rows of one length side by side are attended to in one call.
        order = torch.tensor(sorted(range(len(lengths)), key=lengths.__getitem__), device=real.device)
        rows, columns = real[order].nonzero(as_tuple=True)
        places = (order[rows], columns)
        found = _whole(model, inner, states, input_ids[places][None], texts=[(lengths[row],) for row in order.tolist()])
        return _put(found, found.hidden[0], places, input_ids)
    # Row by row, the texts without their padding, wherever it stood.
    tokens, mask = input_ids[real], length_mask(real.sum(1), max(lengths))
    rows_of_texts = input_ids.new_zeros(mask.shape).masked_scatter(mask, tokens)
    if can_be_packed(inner, max(lengths)):
        packing = pack_rows(lengths, mask.shape[1])
        packed_ids = rows_of_texts.flatten()[packing.source.to(real.device)]
        found = _packed(model, inner, packed_ids, packing.positions.to(real.device), states)
        hidden = found.hidden.flatten(0, 1)[packing.taken.to(real.device)]
    elif verdict_of(inner).batch:
        found = _whole(model, inner, states, rows_of_texts)  # causality hides padding on the right from real tokens
        hidden = found.hidden
    else:
        alone = [
            _whole(model, inner, states, row[None, :length])
            for row, length in zip(rows_of_texts, lengths, strict=True)
            if length
        ]
        found = alone[0]
        return _put(found, torch.cat([each.hidden[0] for each in alone]), real.nonzero(as_tuple=True), input_ids)
    return _put(found, hidden[mask], real.nonzero(as_tuple=True), input_ids)


def _put(
    found: HeadInputs, hidden: torch.Tensor, places: tuple[torch.Tensor, ...], input_ids: torch.Tensor
) -> HeadInputs:
    """Replaces `hidden`: (M, H) is put at the places of a batch like input_ids, and 0 elsewhere."""
    return replace(found, hidden=hidden.new_zeros(*input_ids.shape, hidden.shape[-1]).index_put(places, hidden))


def forward_completions(
    model: torch.nn.Module,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    prompt_index: torch.Tensor,
    *,
    states: bool = False,
) -> HeadInputs:
    """What predicts each token of the completions: hidden (M, H), completion by completion in the order given.

    prompt_ids, prompt_mask: (P, Lp); completion_ids, completion_mask: (N, Lc) without the prompt; padding anywhere.
    prompt_index: (N,), which prompt each continues, in any order. A completion without a token gives no vector. Our own
    forward computes a prompt once for all of its completions, and no completion's last token, which predicts none.
    states: as forward_to_head's. Raises ModelError for a completion of an empty prompt.
    """
    inner, heard = unwrapped(model), listener()
    prompt_mask, completion_mask = prompt_mask.bool(), completion_mask.bool()
    if heard is not None:
        heard.hear_completions(inner, prompt_mask.sum(1), completion_mask.sum(1), prompt_index)
        with heard_by(None):
            return forward_completions(
                model, prompt_ids, prompt_mask, completion_ids, completion_mask, prompt_index, states=states
            )
    prompt_lengths: list[int] = prompt_mask.sum(1).tolist()
    lengths: list[int] = completion_mask.sum(1).tolist()
    owners: list[int] = prompt_index.tolist()
    for row, (length, owner) in enumerate(zip(lengths, owners, strict=True)):
        if length and not prompt_lengths[owner]:
            raise ModelError(f"completion {row}: its prompt {owner} is empty, so nothing predicts its first token")
    if isinstance(inner, Llama):
        layout = lay_out(prompt_lengths, lengths, owners)
        tokens = torch.cat((prompt_ids[prompt_mask], completion_ids[completion_mask]))
        found = _whole(model, inner, states, tokens[layout.source.to(tokens.device)][None], texts=layout.texts)
        return replace(found, hidden=found.hidden[0, layout.predictors.to(tokens.device)])
    input_ids, row_lengths, scored = join_prompt_completion(
        prompt_ids[prompt_index], prompt_mask[prompt_index], completion_ids, completion_mask
    )
    found = forward_to_head(model, input_ids, length_mask(row_lengths, input_ids.shape[1]), states=states)
    return replace(found, hidden=found.hidden[:, :-1][scored[:, 1:]])


def last_states(
    model: torch.nn.Module,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    prompt_index: torch.Tensor,
) -> torch.Tensor:
    """The hidden state (N, H) of each completion's last token, for a head that scores whole texts; arguments as
    forward_completions'. Our own forward computes a prompt once for all of its completions."""
    prompt_mask, completion_mask = prompt_mask.bool(), completion_mask.bool()
    if computes_prompts_once(model):
        # The last token predicts one more, which is not computed itself.
        ids, mask = functional.pad(completion_ids, (0, 1)), functional.pad(completion_mask, (0, 1), value=True)
        found = forward_completions(model, prompt_ids, prompt_mask, ids, mask, prompt_index, states=True)
        return found.hidden[mask.sum(1).cumsum(0) - 1]
    input_ids, lengths, _ = join_prompt_completion(
        prompt_ids[prompt_index], prompt_mask[prompt_index], completion_ids, completion_mask
    )
    found = forward_to_head(model, input_ids, length_mask(lengths, input_ids.shape[1]), states=True)
    return found.hidden[torch.arange(len(lengths), device=lengths.device), lengths - 1]


def _packed(
    model: torch.nn.Module, inner: torch.nn.Module, input_ids: torch.Tensor, position_ids: torch.Tensor, states: bool
) -> HeadInputs:
    if not isinstance(inner, Llama):
        if not can_be_packed(inner, int(position_ids.max()) + 1):
            kind = getattr(getattr(inner, "config", None), "model_type", type(inner).__name__)
            raise ModelError(f"packed rows: {kind} does not keep their texts apart; give rows with a mask")
        mask = packed_mask(position_ids)
        return _whole(model, inner, states, input_ids, attention_mask=mask, position_ids=position_ids)
    texts = [(length,) for length in lengths_of(position_ids)]
    found = _whole(model, inner, states, input_ids.view(1, -1), texts=texts)
    return replace(found, hidden=found.hidden.view(*input_ids.shape, -1))


def lengths_of(position_ids: torch.Tensor) -> list[int]:
    """The lengths of packed texts, row after row. position_ids: (B, T), restarting at 0 with each text."""
    starts = (position_ids.flatten() == 0).nonzero().flatten().tolist()
    return [end - start for start, end in itertools.pairwise([*starts, position_ids.numel()])]


def _together(model: torch.nn.Module, inner: torch.nn.Module, states: bool, input_ids: torch.Tensor) -> HeadInputs:
    """Rows without padding; one at a time where the model does not keep them apart."""
    if len(input_ids) == 1 or verdict_of(inner).batch:
        return _whole(model, inner, states, input_ids)
    alone = [_whole(model, inner, states, row[None]) for row in input_ids]
    return replace(alone[0], hidden=torch.cat([each.hidden for each in alone]))


def _whole(
    model: torch.nn.Module, inner: torch.nn.Module, states: bool, input_ids: torch.Tensor, **arguments: Any
) -> HeadInputs:
    """The model's own call, as it is asked."""
    if isinstance(inner, Llama):
        output = model(input_ids, project=False, **arguments)
        return HeadInputs(output.hidden_states, inner.output_weight)
    verdict, head = verdict_of(inner), output_head(inner)
    if verdict.head and head is not None:
        return HeadInputs(head_inputs(model, input_ids, **arguments), head.weight, head.bias)
    if not states:
        return HeadInputs(logits_of(model, input_ids, **arguments), None)
    if not verdict.states:
        raise ModelError(f"a value head needs hidden states, which a {type(inner).__name__} hides")
    return HeadInputs(head_inputs(model, input_ids, **arguments), None)


def hidden_size(model: torch.nn.Module) -> int:
    """H of the states that forward_to_head(states=True) gives: what a value head takes."""
    inner = unwrapped(model)
    find = getattr(inner, "get_output_embeddings", None)
    size = getattr(find() if callable(find) else None, "in_features", None)
    if size is None:
        raise ModelError(
            f"a value head needs to know the width of the hidden states, and {type(inner).__name__} tells "
            "of no output head; take a causal language model"
        )
    return int(size)


def can_be_packed(model: torch.nn.Module, longest: int) -> bool:
    """Whether texts of up to that many tokens stay apart in one row, and no window of the model is narrower."""
    if not verdict_of(model).packed:
        return False
    fields = vars(model.config)
    windows = [size for name, size in fields.items() if _WINDOW.search(name) and type(size) is int and size > 0]
    return all(size >= longest for size in windows)


@dataclass(frozen=True)
class LaidOut:
    """Rows of one width in one call; masked: a mask keeps the texts in each apart."""

    rows: int
    width: int
    masked: bool


def laid_out(model: torch.nn.Module, lengths: list[int], width: int | None = None) -> LaidOut | None:
    """How forward_to_head computes rows of these lengths and this width (None: the longest's); None: text by text."""
    longest = max(lengths)
    if not is_called_by_row(model):
        return None
    if sum(lengths) < len(lengths) * (width or longest) and can_be_packed(unwrapped(model), longest):
        rows, size = pack_rows(lengths, longest).source.shape
        return LaidOut(rows, size, masked=True)
    return LaidOut(len(lengths), longest, masked=False) if verdict_of(unwrapped(model)).batch else None


def is_called_by_row(model: torch.nn.Module) -> bool:
    """Whether the model computes rows, which may be padded, and not texts laid end to end as our own forward does."""
    return not isinstance(unwrapped(model), Llama)


def computes_prompts_once(model: torch.nn.Module) -> bool:
    """Whether forward_completions computes a prompt once for all of its completions."""
    return isinstance(unwrapped(model), Llama)


def projects_everything(model: torch.nn.Module) -> bool:
    """Whether logits are made at every position, for the model does more to them than a linear head."""
    return not verdict_of(model).head
