"""eval/kl_start: the one estimator of divergence from the start that reports compare methods by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional

from workbench.models.mode import evaluation_mode
from workbench.models.outputs import HeadInputs, forward_to_head
from workbench.models.reference import Reference
from workbench.objectives.kl import full_kl

LOGITS_ELEMENTS = 1 << 23
TOKENS_AT_ONCE = 1 << 13


@torch.no_grad()
def sequence_kl(
    policy: torch.nn.Module,
    reference: Reference,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> list[float]:
    """KL(policy || reference) of each row, nats per sequence.

    It is summed over the completion's positions, of the full-vocabulary divergence at each. completions: the policy's
    own samples at temperature 1 (token ids, ends included).
    """
    found = [0.0] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(completions[row]))
    device = next(policy.parameters()).device
    for rows in _batches(order, [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]):
        texts = [[*prompts[row], *completions[row]] for row in rows]
        width = max(len(text) for text in texts)
        input_ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=device)
        starts = torch.tensor([len(prompts[row]) for row in rows], device=device)[:, None]
        ends = torch.tensor([len(text) for text in texts], device=device)[:, None]
        places = torch.arange(width, device=device)
        scored = (places >= starts - 1) & (places < ends - 1)  # the position before a token predicts it
        # Dropout is off; both would have it where the reference is the policy with its adapter off.
        with evaluation_mode(policy):
            own = _selected(forward_to_head(policy, input_ids, places < ends), scored)
            with reference(policy) as start:
                other = _selected(forward_to_head(start, input_ids, places < ends), scored)
        divergence = torch.cat(list(_divergences(own, other)))
        sums = torch.zeros(len(rows), dtype=torch.float64, device=device)
        sums.index_add_(0, scored.nonzero()[:, 0], divergence.double())
        for row, value in zip(rows, sums.tolist(), strict=True):
            found[row] = value
    return found


def _batches(order: list[int], lengths: list[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for row in order:
        if batch and (len(batch) + 1) * lengths[row] > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _selected(outputs: HeadInputs, scored: torch.Tensor) -> HeadInputs:
    return HeadInputs(outputs.hidden[scored], outputs.weight, outputs.bias)


def _divergences(own: HeadInputs, other: HeadInputs) -> Iterator[torch.Tensor]:
    """Yields the divergences in chunks, because both distributions over the vocabulary are held at once."""
    vocabulary = own.hidden.shape[-1] if own.weight is None else own.weight.shape[0]
    size = max(1, LOGITS_ELEMENTS // vocabulary)
    for start in range(0, max(len(own.hidden), 1), size):
        chunk = slice(start, start + size)
        yield full_kl(_project(own, chunk), _project(other, chunk))


def _project(outputs: HeadInputs, chunk: slice) -> torch.Tensor:
    hidden = outputs.hidden[chunk]
    return hidden if outputs.weight is None else functional.linear(hidden, outputs.weight, outputs.bias)
