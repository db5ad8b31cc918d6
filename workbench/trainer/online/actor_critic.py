"""A policy and its critic as one module, so that one forward (and DDP) sees both."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn

from workbench.models.outputs import HeadInputs, hidden_size
from workbench.objectives.logprobs import at_least_float32
from workbench.trainer.loop.batches import Batch
from workbench.trainer.online.scoring import in_places, predicting_states

CriticKind = Literal["head", "model"]


class ValueHead(nn.Module):
    """Makes a value of a hidden state. It begins at 0, so that the first advantages are the rewards' own."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        # They are a vector and a scalar, which decay and Muon leave alone.
        self.weight = nn.Parameter(torch.zeros(hidden_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: (M, H). Returns (M,), at least float32."""
        hidden = at_least_float32(hidden)
        return hidden @ self.weight.to(hidden.dtype) + self.bias.to(hidden.dtype)


class ActorCritic(nn.Module):
    """kind "head": values from the policy's own hidden states; "model": from a trunk of its own, which begins as it."""

    def __init__(self, policy: nn.Module, kind: CriticKind) -> None:
        super().__init__()
        width = hidden_size(policy)
        self.policy = policy
        self.trunk = _trunk_of(policy) if kind == "model" else None
        first = next(policy.parameters())
        dtype = torch.promote_types(first.dtype, torch.float32)
        self.value_head = ValueHead(width).to(first.device, dtype)

    def forward(self, batch: Batch) -> tuple[HeadInputs, torch.Tensor]:
        """What predicts each token of a completion (M, H); and the values (B, T) of the states before them."""
        found = predicting_states(self.policy, batch)
        # Without a weight they are logits already (Gemma 2's): then the states take a pass of their own.
        shared = self.trunk is None and found.weight is not None
        values = in_places(self.value_head(found.hidden), batch["completion_mask"]) if shared else self.values(batch)
        return found, values

    def values(self, batch: Batch) -> torch.Tensor:
        """(B, T) the values alone."""
        trunk = self.policy if self.trunk is None else self.trunk
        states = predicting_states(trunk, batch, states=True)
        return in_places(self.value_head(states.hidden), batch["completion_mask"])

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """Turns it on in the policy and in the critic's own trunk (transformers' name)."""
        for module in (self.policy, self.trunk):
            if module is not None:
                module.gradient_checkpointing_enable(gradient_checkpointing_kwargs)  # type: ignore[operator]

    @property
    def config(self) -> Any:
        """The policy's config."""
        return self.policy.config

    def get_input_embeddings(self) -> Any:
        """The policy's input embeddings (transformers' name)."""
        return self.policy.get_input_embeddings()  # type: ignore[operator]

    def get_output_embeddings(self) -> Any:
        """The policy's output head (transformers' name)."""
        return self.policy.get_output_embeddings()  # type: ignore[operator]


def _trunk_of(policy: Any) -> nn.Module:
    """A copy whose output head is not trained, unless it is the embeddings too: values do not come from it, and DDP
    waits for the gradient of every parameter that is trained."""
    trunk = copy.deepcopy(policy)
    head, embeddings = trunk.get_output_embeddings(), trunk.get_input_embeddings()
    shared = {id(parameter) for parameter in embeddings.parameters()}
    for parameter in head.parameters() if head is not None else ():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in shared)
    return trunk
