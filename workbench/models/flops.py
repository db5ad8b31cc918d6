"""Floating-point operations of a model, by the formula that the report states: what is computed counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from workbench.models.outputs import computes_prompts_once, projects_everything
from workbench.models.passes import input_embedding, output_head
from workbench.models.quantised import num_weights

FLOPS_FORMULA = (
    "forward 2 (N_frozen + N_trained) a token, backward 2 N_frozen + 4 N_trained, the output head only where a "
    "position is projected to the vocabulary; attention 4 x layers x width x context forward and twice that backward; "
    "input embedding excluded; gradient checkpointing adds the forward of all but the head; a prompt counts as often "
    "as it is computed: once for all completions that a step learns from, where the model's forward is our own"
)


@dataclass(frozen=True)
class Work:
    """What one pass computes. A step's is that of its whole batch, however it is cut into micro-batches."""

    tokens: float
    """That go through the layers."""
    context: float
    """Positions attended to, summed over these tokens."""
    projected: float
    """Positions at which the output head is computed."""
    read: float
    """Tokens read: prompts as often as computed, and all tokens of the texts, the last too, which predicts nothing."""

    @classmethod
    def of_rows(cls, lengths: torch.Tensor, projected: float | None = None) -> Work:
        """Rows of these lengths (padding excluded), projected everywhere unless said."""
        sizes = lengths.double()
        tokens = float(sizes.sum())
        context = float((sizes * (sizes + 1) / 2).sum())
        return cls(tokens, context, tokens if projected is None else projected, tokens)

    @classmethod
    def of_completions(
        cls, model: torch.nn.Module, prompts: torch.Tensor, lengths: torch.Tensor, prompt_of: torch.Tensor
    ) -> Work:
        """As models.outputs.forward_completions computes them: prompts (P,), lengths (N,) in tokens; prompt_of (N,)."""
        owners, sizes = prompts.double()[prompt_of], lengths.double()
        projected = float(sizes.sum())
        if not computes_prompts_once(model):
            return cls.of_rows(owners + sizes, projected)
        used = prompts.double()[prompt_of[lengths > 0].unique()]
        after = (sizes - 1).clamp_min(0)  # a completion's last token predicts nothing
        context = float((used * (used + 1) / 2).sum() + (after * (owners + (after + 1) / 2)).sum())
        return cls(float(used.sum() + after.sum()), context, projected, float(used.sum()) + projected)

    def without_head(self) -> Work:
        """The same pass for its hidden states alone."""
        return replace(self, projected=0.0)

    def projected_again(self) -> Work:
        """The same pass, whose states are projected twice."""
        return replace(self, projected=2 * self.projected)


@dataclass(frozen=True)
class ModelFlops:
    """num_trained, num_frozen: parameters that multiply tokens, num_head of them the output head's (0: there is none).
    width: heads x head size. projects_all: logits are made at every token, whether needed or not."""

    num_trained: int
    num_frozen: int
    num_layers: int = 0
    width: int = 0
    num_head: int = 0
    head_is_trained: bool = False
    projects_all: bool = False

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
        width = heads * size
        if head is None:
            return cls(trained, frozen, layers, width)
        learns = head.weight.requires_grad
        return cls(trained, frozen, layers, width, head.weight.numel(), learns, projects_everything(model))

    def forward(self, work: Work) -> float:
        """Of one pass."""
        body = self.num_trained + self.num_frozen - self.num_head
        return 2 * (body * work.tokens + self.num_head * self._projected(work)) + self._attention(work)

    def backward(self, work: Work) -> float:
        """Of the same pass: gradients of its inputs, and of what is trained."""
        trained_head = self.num_head if self.head_is_trained else 0
        frozen_head = self.num_head - trained_head
        body = 2 * (self.num_frozen - frozen_head) + 4 * (self.num_trained - trained_head)
        head = 2 * frozen_head + 4 * trained_head
        return body * work.tokens + head * self._projected(work) + 2 * self._attention(work)

    def training(self, work: Work, *, recomputed: bool = False) -> float:
        """Forward and backward; recomputed: the layers' forward once more, under gradient checkpointing."""
        again = self.forward(work) - 2 * self.num_head * self._projected(work) if recomputed else 0.0
        return self.forward(work) + self.backward(work) + again

    def generation(self, prompt_tokens: int, lengths: Sequence[int]) -> float:
        """Sampling completions of these lengths from one prompt: its prefill, which they share, then a forward for
        every sampled token but the last; each token is drawn from one projected position."""
        after = [length - 1 for length in lengths]
        tokens = prompt_tokens + sum(after)
        context = prompt_tokens * (prompt_tokens + 1) / 2
        context += sum(number * (prompt_tokens + (number + 1) / 2) for number in after)
        return self.forward(Work(tokens, context, 1 + sum(after), tokens))

    def _projected(self, work: Work) -> float:
        return work.tokens if self.projects_all and work.projected else work.projected

    def _attention(self, work: Work) -> float:
        return 4 * self.num_layers * self.width * work.context
