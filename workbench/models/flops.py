"""Floating-point operations of a model: what is computed counts, and the same on every machine.

A token's layers are counted by torch's FLOP counter in short passes of the model itself: forward 2 N and backward 4 N
of the N weights that multiply it (2 N of frozen ones, 0 where nothing before them is trained), experts by those that
are active, and under gradient checkpointing what is computed again. The output head counts 2 and 4 a weight where a
position is projected to the vocabulary, the input embedding nothing. Padding counts where it is computed: in families
whose rows cannot be laid end to end, and at the ends of those that are. A prompt counts as often as it is computed:
once for all completions that a step learns from where the model's forward is our own. Sampling is charged as its
forwards are made (generation.costs).

Attention counts 4 x layers x width forward, and twice that backward, for every pair of tokens that is computed:
- those up to a token's own place, where a kernel leaves out what lies ahead;
- all pairs of a row where no kernel does, where a mask keeps texts apart that were laid end to end, and in layers
  whose window is no longer than the row, for a mask makes the window. A sampled token finds only the window in the
  cache;
- where the model's forward is our own, all pairs of the grid that short texts are laid in, padding among them, and in
  half precision all pairs of rows of up to 512 tokens. Some GPUs have kernels that leave those out; they are charged
  there too, so that a budget of FLOPs ends a run at the same step on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch

from workbench.models.attention import Text, pairs_of_rows, pairs_of_texts
from workbench.models.counted import TokenFlops, UncountedError, count_layers
from workbench.models.outputs import (
    computes_prompts_once,
    is_called_by_row,
    laid_out,
    lengths_of,
    projects_everything,
)
from workbench.models.packing import texts_of
from workbench.models.passes import config_field, input_embedding, output_head
from workbench.models.quantised import num_weights


@dataclass(frozen=True)
class Work:
    """What one pass computes. A step's is that of its whole batch, however it is cut into micro-batches."""

    tokens: float
    """That go through the layers, padding among them where it is computed."""
    context: float
    """Positions attended to, summed over these tokens: the mean of the layers, each within its window."""
    projected: float
    """Positions at which the output head is computed."""
    read: float
    """Tokens read: prompts as often as computed, and all tokens of the texts, the last too, which predicts nothing."""
    rows: float = 0.0
    """Rows that are calls of their own or stand side by side in one; of our own forward, which adds none a row, 0."""
    beyond: float = 0.0
    """Pairs beyond the context that attention without a kernel for it computes and masks: all others of a row."""

    @classmethod
    def of_rows(
        cls,
        lengths: torch.Tensor,
        projected: float | None = None,
        model: torch.nn.Module | None = None,
        width: int | None = None,
    ) -> Work:
        """Rows of these lengths (padding excluded), projected everywhere unless said, in one call of forward_to_head.

        model: computes padding or does not, and has windows or none; None: neither. width: of the rows with their
        padding; None: that of the longest.
        """
        read = float(lengths.sum())
        projected = read if projected is None else projected
        if model is not None and not is_called_by_row(model):
            sizes: list[int] = lengths.long().tolist()
            widest = max(sizes, default=0) if width is None else width
            if read < len(sizes) * widest:  # then they are laid end to end
                return cls._of_texts([(size,) for size in sizes], projected, read)
            pairs = pairs_of_rows(len(sizes), widest)
            return cls(read, pairs.seen, projected, read, beyond=pairs.ahead)
        laid = None if model is None or not len(lengths) else laid_out(model, lengths.long().tolist(), width)
        if laid is not None and laid.masked:
            return cls._masked(laid.rows, laid.width, projected, read)
        rows = lengths.double() if laid is None else torch.full((laid.rows,), laid.width, dtype=torch.float64)
        context, whole = float(pairs_in_rows(windows_of(model), rows).sum()), float(rows.square().sum())
        if model is None:
            return cls(read, context, projected, read)
        return cls(float(rows.sum()), context, projected, read, float((rows > 0).sum()), whole - context)

    @classmethod
    def of_packed(cls, positions: torch.Tensor, projected: float, model: torch.nn.Module | None) -> Work:
        """Texts laid end to end; positions: (B, T), restarting with each text. In our own forward a token attends to
        its own text alone; in another all pairs of a row are computed, and a mask keeps texts apart."""
        read = float(positions.numel())
        if model is not None and is_called_by_row(model):
            rows, width = positions.shape
            return cls._masked(rows, width, projected, read)
        return cls._of_texts([(length,) for length in lengths_of(positions)], projected, read)

    @classmethod
    def _of_texts(cls, texts: Sequence[Text], projected: float, read: float) -> Work:
        """What one call of our own forward computes of texts laid end to end."""
        pairs = pairs_of_texts(texts)
        return cls(float(sum(map(sum, texts))), pairs.seen, projected, read, beyond=pairs.ahead)

    @classmethod
    def _masked(cls, rows: int, width: int, projected: float, read: float) -> Work:
        """Rows of which a mask of ours says what is seen, so that every pair is computed."""
        return cls(float(rows * width), float(rows * width**2), projected, read, float(rows))

    @classmethod
    def of_scored(cls, model: torch.nn.Module, lengths: torch.Tensor, width: int) -> Work:
        """Rows that a sequence classifier reads beside one another, each padded to the width and computed whole."""
        sizes = torch.full_like(lengths, width, dtype=torch.float64)
        whole, read = float(sizes.square().sum()), float(lengths.sum())
        both_ways = any(getattr(module, "is_causal", True) is False for module in model.modules())
        masked = both_ways or bool((lengths < width).any())
        context = whole if masked else float(pairs_in_rows(windows_of(model), sizes).sum())
        return cls(float(sizes.sum()), context, 0.0, read, len(sizes), whole - context)

    @classmethod
    def total(cls, parts: Iterable[Work]) -> Work:
        """What several passes compute together."""
        return cls(*(sum(values) for values in zip(*map(astuple, parts), strict=True)))

    @classmethod
    def of_completions(
        cls, model: torch.nn.Module, prompts: torch.Tensor, lengths: torch.Tensor, prompt_index: torch.Tensor
    ) -> Work:
        """What forward_completions of models/outputs.py computes; prompts (P,) and lengths (N,) are in tokens."""
        projected = float(lengths.sum())
        if not computes_prompts_once(model):
            return cls.of_rows(prompts[prompt_index] + lengths, projected, model)
        texts = texts_of(prompts.tolist(), lengths.tolist(), prompt_index.tolist())
        return cls._of_texts(texts, projected, sum(text[0] for text in texts) + projected)

    @classmethod
    def of_last_states(
        cls, model: torch.nn.Module, prompts: torch.Tensor, lengths: torch.Tensor, prompt_index: torch.Tensor
    ) -> Work:
        """As last_states of models/outputs.py computes them; projected: the texts, of which a head scores each once."""
        if not computes_prompts_once(model):
            return cls.of_rows(prompts[prompt_index] + lengths, float(len(lengths)), model)
        work = cls.of_completions(model, prompts, lengths + 1, prompt_index)
        return replace(work, projected=float(len(lengths)), read=work.read - len(lengths))

    def without_head(self) -> Work:
        """Returns the same pass where only its hidden states are computed."""
        return replace(self, projected=0.0)

    def projected_again(self) -> Work:
        """Returns the same pass where its states are projected twice."""
        return replace(self, projected=2 * self.projected)


def scores_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """A sequence classifier's logits of whole rows."""
    logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits


def pairs_in_rows(windows: tuple[int, float], lengths: torch.Tensor) -> torch.Tensor:
    """Pairs of tokens that attention computes in whole rows of these lengths (N,), as the mean of the layers. windows:
    as windows_of gives them; where one is no longer than the row, a mask makes it, and every pair is computed."""
    (window, share), causal = windows, lengths * (lengths + 1) / 2
    if not window:
        return causal
    return torch.where(lengths >= window, share * lengths.square() + (1 - share) * causal, causal)


def pairs_of_call(model: torch.nn.Module, new: int, end: int, *, masked: bool) -> tuple[float, float]:
    """Context and pairs beyond it of one row of a call of the model itself, by new tokens that end at `end`; a cache
    holds those before them, in a layer with a window the last ones. masked: a mask says more than what lies ahead."""
    windows = windows_of(model)
    if new == end and not masked:
        context = float(pairs_in_rows(windows, torch.tensor(float(new))))
        return context, new**2 - context
    window, share = windows
    found = min(end, window - 1 + new) if window and new < end else end
    return new * (share * found + (1 - share) * end), 0.0


def windows_of(model: torch.nn.Module | None) -> tuple[int, float]:
    """(width, share of the layers with attention that have it); 0 where there is none."""
    config = getattr(model, "config", None)
    window = config_field(config, "sliding_window") or config_field(config, "attention_chunk_size")
    if not window or config_field(config, "use_sliding_window") is False:
        return 0, 0.0
    kinds = [kind for kind in config_field(config, "layer_types") or ["sliding_attention"] if "attention" in kind]
    return int(window), sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds) / max(1, len(kinds))


@dataclass(frozen=True)
class ModelFlops:
    """num_trained, num_frozen: parameters that multiply tokens, num_head of them the output head's (0: there is none).
    width: heads x head size. projects_all: logits are made at every token, whether needed or not. counted: the layers
    as they were counted; None: every parameter multiplies every token.
    uncounted: why a model's layers could not be counted; then every number of FLOPs is NaN. half: it runs in half
    precision."""

    num_trained: int
    num_frozen: int
    num_layers: int = 0
    width: int = 0
    num_head: int = 0
    head_is_trained: bool = False
    projects_all: bool = False
    counted: TokenFlops | None = None
    uncounted: str = ""
    half: bool = False

    @classmethod
    def counted_of(
        cls,
        model: torch.nn.Module,
        recomputing: Callable[[], AbstractContextManager[Any]] | None = None,
        *,
        learns: bool = True,
        half: bool = False,
    ) -> ModelFlops:
        """of_model, its layers counted in passes of the model itself; `uncounted` says why where that cannot be.

        recomputing: a context in which it computes activations again, where training does. learns: False for a model
        that is only read. half: it runs under autocast to half precision.
        """
        half = half or any(weight.dtype in (torch.bfloat16, torch.float16) for weight in model.parameters())
        plain = replace(cls.of_model(model), half=half)
        try:
            layers = count_layers(model, recomputing, learns=learns, half=half, window=windows_of(model)[0])
        except UncountedError as error:
            return replace(plain, uncounted=f"{type(model).__name__}: {error}")
        if plain.projects_all:  # then the passes gave logits: the head is counted with what is projected
            head, learned = 2 * plain.num_head, 4 if plain.head_is_trained else 2
            layers = replace(layers, forward=layers.forward - head, backward=layers.backward - learned * plain.num_head)
        return replace(plain, counted=layers)

    @classmethod
    def of_classifier(cls, model: torch.nn.Module) -> ModelFlops:
        """Counts a model that is only read and gives a text its logits: model(input_ids, attention_mask).logits."""
        plain = replace(cls.of_model(model), num_head=0)
        try:
            layers = count_layers(
                model, learns=False, states_of=lambda ids: scores_of(model, ids), window=windows_of(model)[0]
            )
        except UncountedError as error:
            return replace(plain, uncounted=f"{type(model).__name__}: {error}")
        return replace(plain, counted=layers)

    @classmethod
    def of_model(cls, model: torch.nn.Module) -> ModelFlops:
        """Counts a model's matrices; the input embedding only where it is the output head as well."""
        embedding, head = input_embedding(model), output_head(model)
        tied = embedding is not None and head is not None and head.weight is embedding.weight
        skipped = None if embedding is None or tied else embedding.weight
        counted = [parameter for parameter in model.parameters() if parameter is not skipped]
        trained = sum(parameter.numel() for parameter in counted if parameter.requires_grad)
        config = getattr(model, "config", None)
        layers = config_field(config, "num_hidden_layers") or 0
        heads = config_field(config, "num_attention_heads") or 0
        size = config_field(config, "head_dim") or (config_field(config, "hidden_size") or 0) // max(heads, 1)
        frozen = sum(num_weights(parameter) for parameter in counted) - trained
        width = heads * size
        if head is None:
            return cls(trained, frozen, layers, width)
        learns = head.weight.requires_grad
        return cls(trained, frozen, layers, width, head.weight.numel(), learns, projects_everything(model))

    def forward(self, work: Work) -> float:
        """FLOPs of one forward pass."""
        if self.uncounted:
            return math.nan
        layers: float = 2 * (self.num_trained + self.num_frozen - self.num_head) * work.tokens
        if self.counted is not None:
            layers = self.counted.forward * work.tokens + self.counted.row * work.rows
        return layers + 2 * self.num_head * self._projected(work) + self._attention(work)

    def backward(self, work: Work) -> float:
        """FLOPs of the backward of the same pass: gradients of its inputs, and of what is trained."""
        if self.uncounted:
            return math.nan
        trained_head = self.num_head if self.head_is_trained else 0
        frozen_head = self.num_head - trained_head
        layers: float = (2 * (self.num_frozen - frozen_head) + 4 * (self.num_trained - trained_head)) * work.tokens
        attention = 2 * self._attention(work)
        if self.counted is not None:
            layers = self.counted.backward * work.tokens + self.counted.backward_row * work.rows
            dense = self.counted.backward_pair - self.counted.backward_looking_back
            attention = self.counted.backward_pair * work.context + dense * work.beyond
        head = 2 * frozen_head + 4 * trained_head
        return layers + head * self._projected(work) + attention

    def training(self, work: Work, *, recomputed: bool = False) -> float:
        """Forward and backward; recomputed: the layers' forward once more, under gradient checkpointing."""
        again = 0.0
        if recomputed and self.counted is not None and self.counted.again is not None:
            again = self.counted.again * work.tokens + self._attention(work)
        elif recomputed:
            again = self.forward(work) - 2 * self.num_head * self._projected(work)
        return self.forward(work) + self.backward(work) + again

    def _projected(self, work: Work) -> float:
        return work.tokens if self.projects_all and work.projected else work.projected

    def _attention(self, work: Work) -> float:
        if self.counted is None:
            return 4 * self.num_layers * self.width * work.context
        return self.counted.pair * work.context + (self.counted.pair - self.counted.looking_back) * work.beyond
