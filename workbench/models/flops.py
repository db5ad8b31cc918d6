"""Floating-point operations of a model, by the formula that the report states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workbench.models.outputs import input_embedding, output_head
from workbench.models.quantised import num_weights

FLOPS_FORMULA = (
    "forward 2 (N_frozen + N_trained) a token, backward 2 N_frozen + 4 N_trained, attention "
    "4 x layers x width x context forward and twice that backward; input embedding excluded, output head included; "
    "gradient checkpointing adds the forward of all but the head; a prompt counts with each of its completions"
)


@dataclass(frozen=True)
class ModelFlops:
    """num_trained, num_frozen: parameters that multiply each token, num_head of them the output head's (0: not known).
    width: heads x head size."""

    num_trained: int
    num_frozen: int
    num_layers: int = 0
    width: int = 0
    num_head: int = 0

    @classmethod
    def of_model(cls, model: torch.nn.Module) -> ModelFlops:
        """Counts a model's matrices; the input embedding only where it is the output head as well."""
        embedding, head = input_embedding(model), output_head(model)
        tied = embedding is not None and head is not None and head.weight is embedding.weight
        skipped = None if embedding is None or tied else embedding.weight
        counted = [parameter for parameter in model.parameters() if parameter is not skipped]
        trained = sum(parameter.numel() for parameter in counted if parameter.requires_grad)
        config = getattr(model, "config", None)
        layers = getattr(config, "num_hidden_layers", 0)
        heads = getattr(config, "num_attention_heads", 0)
        size = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // max(heads, 1)
        frozen = sum(num_weights(parameter) for parameter in counted) - trained
        return cls(trained, frozen, layers, heads * size, head.weight.numel() if head is not None else 0)

    def forward(self, tokens: float, context: float) -> float:
        """context: positions attended to, summed over the tokens."""
        return 2 * (self.num_trained + self.num_frozen) * tokens + 4 * self.num_layers * self.width * context

    def generation(self, prompt_tokens: int, lengths: Sequence[int]) -> float:
        """Sampling completions of these lengths from one prompt: its prefill, which they share, then a forward for
        every sampled token but the last."""
        tokens = prompt_tokens + sum(length - 1 for length in lengths)
        context = prompt_tokens * (prompt_tokens + 1) / 2
        context += sum((length - 1) * (prompt_tokens + length / 2) for length in lengths)
        return self.forward(tokens, context)

    def backward(self, tokens: float, context: float) -> float:
        """Of the same tokens."""
        return (2 * self.num_frozen + 4 * self.num_trained) * tokens + 8 * self.num_layers * self.width * context

    def training(self, tokens: float, context: float, *, recomputed: bool = False) -> float:
        """Forward and backward; recomputed: the layers' forward once more, under gradient checkpointing."""
        again = self.forward(tokens, context) - 2 * self.num_head * tokens if recomputed else 0.0
        return self.forward(tokens, context) + self.backward(tokens, context) + again
