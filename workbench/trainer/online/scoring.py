"""Log-probabilities of sampled completions under a model, a prompt computed once for all of its completions."""

from __future__ import annotations

import torch

from workbench.models.flops import Work
from workbench.models.outputs import HeadInputs, forward_completions
from workbench.objectives.logprobs import projected_entropies, projected_logprobs
from workbench.trainer.loop.batches import Batch


def predicting_states(model: torch.nn.Module, batch: Batch, *, states: bool = False) -> HeadInputs:
    """What predicts each real token of a completion, (M, H), row by row.

    batch: {prompts, prompt_mask, completion_ids, completion_mask} (B, L), and prompt_index (B,), equal where prompts
    are.
    states: never logits, whatever the model does to those (see HeadInputs).
    """
    numbers: dict[int, int] = {}  # the number of each prompt, in the order that prompts are met
    rows: list[int] = []
    owners: list[int] = []
    for row, prompt in enumerate(batch["prompt_index"].tolist()):
        if prompt not in numbers:
            numbers[prompt] = len(rows)
            rows.append(row)
        owners.append(numbers[prompt])
    return forward_completions(
        model,
        batch["prompts"][rows],
        batch["prompt_mask"][rows],
        batch["completion_ids"],
        batch["completion_mask"],
        torch.tensor(owners, device=batch["prompts"].device),
        states=states,
    )


def rollout_work(model: torch.nn.Module, batch: Batch) -> Work:
    """What predicting_states computes of a batch."""
    lengths, completions = (batch[f"{part}_mask"].sum(1) for part in ("prompt", "completion"))
    prompts, prompt_index = batch["prompt_index"].unique(return_inverse=True)
    of_prompts = lengths.new_zeros(len(prompts)).index_put((prompt_index,), lengths)
    return Work.of_completions(model, of_prompts, completions, prompt_index)


def sampled_logprobs(model: torch.nn.Module, batch: Batch, temperature: float) -> torch.Tensor:
    """(B, T) log-probability of each token of a completion under a model, nats, 0 at padding."""
    return rollout_logprobs(predicting_states(model, batch), batch, temperature)


def rollout_logprobs(states: HeadInputs, batch: Batch, temperature: float) -> torch.Tensor:
    """(B, T) log-probability of each token of a completion at that temperature, nats, 0 at padding."""
    mask = batch["completion_mask"]
    targets = batch["completion_ids"][mask]
    logprobs = projected_logprobs(states.hidden, states.weight, targets, bias=states.bias, temperature=temperature)
    return in_places(logprobs, mask)


def rollout_entropies(states: HeadInputs, batch: Batch, temperature: float) -> torch.Tensor:
    """(B, T) entropy of the distribution that each token of a completion was drawn from, nats, 0 at padding."""
    entropies = projected_entropies(states.hidden, states.weight, bias=states.bias, temperature=temperature)
    return in_places(entropies, batch["completion_mask"])


def in_places(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, T) with values (M,) where the mask is true, row by row, and 0 elsewhere."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
