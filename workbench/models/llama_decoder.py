"""Prefill and single-token steps of our own Llama for groups of samples: a prompt's keys and values are held once.

Letters: P prompts, G samples of each side by side, R rows of the batch (P x G until some have finished), S positions of
the longest prompt, C new positions at most, N heads, K key-value heads, Q = N / K queries of each, D head size,
V vocabulary.

Attention of a step looks at the prompt's keys with all queries of its group in one product, at each row's own new keys,
and takes one softmax over both. Two kinds of step, equal within rounding: the dynamic one looks at the new positions
there are; the static one at all C of them, behind a mask, so that no shape ever changes (as a CUDA graph needs it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.models.attention import attend
from workbench.models.joined_linear import JoinedLinear, can_pack, is_plain
from workbench.models.llama import DecoderLayer, Llama, rotate, rotations


def can_decode(model: nn.Module) -> bool:
    """Whether the model is our Llama with plain or LoRA layers; 4-bit ones stay with the model's own forward."""
    if type(model) is not Llama:
        return False
    joined = [layers for layer in model.model.layers for layers in _linear_layers(layer)]
    return all(is_plain(layer) for layers in joined for layer in layers)


def _linear_layers(layer: nn.Module) -> tuple[list[nn.Module], ...]:
    assert isinstance(layer, DecoderLayer)
    attention, mlp = layer.self_attn, layer.mlp
    qkv: list[nn.Module] = [attention.q_proj, attention.k_proj, attention.v_proj]
    return qkv, [attention.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj]


class LlamaWeights:
    """The model's weights of now, as every batch of one generation multiplies with them."""

    def __init__(self, model: Llama, num_rows: int) -> None:
        """num_rows: of a typical batch. Under autocast its type is the products'; the residual stays the weights'."""
        self.model, self.config = model, model.config
        weight = model.output_weight
        self.device, self.dtype = weight.device, weight.dtype
        if torch.is_autocast_enabled(self.device.type):
            self.dtype = torch.get_autocast_dtype(self.device.type)
        packed = can_pack(self.device, self.dtype, num_rows)
        self.layers = [
            tuple(JoinedLinear(layers, self.dtype, packed=packed) for layers in _linear_layers(layer))
            for layer in model.model.layers
        ]
        self.head = JoinedLinear([model.lm_head], self.dtype, packed=packed)
        # On a CPU the products of one query are faster in float32, and more exact.
        self.attention_dtype = torch.float32 if self.device.type == "cpu" else self.dtype


@dataclass
class _Stems:
    """The prompts of the batch, padded on the right."""

    keys: list[Tensor]
    """A layer's (P x K, S, D)."""
    values: list[Tensor]
    bias: Tensor | None
    """(P x K, 1, S), minus infinity at padding; None where there is none."""
    group: int
    """G: rows that a prompt has room for in the products with its keys."""
    slots: Tensor | None = None
    """(R,): the place of each row among P x G; None while every place is taken, in order."""
    row_of: Tensor | None = None
    """(P x G,): the row at each place; any where there is none."""


@dataclass
class _Step:
    """What every layer shares in one step."""

    cos: Tensor  # (R, 1, D)
    sin: Tensor
    position: Tensor  # (1,): where among the C new positions this step writes
    visible: int  # new positions that are looked at
    bias: Tensor | None  # (visible,): minus infinity at those not yet written


class LlamaDecoder:
    """The state of one batch being generated."""

    drops_rows = True

    def __init__(self, weights: LlamaWeights, max_new_tokens: int, *, static: bool = False) -> None:
        self.static = static
        self._weights, self._capacity = weights, max_new_tokens
        self._stems: _Stems
        self._own: Tensor  # (layers, 2, R, K, C, D)
        self._table: tuple[Tensor, Tensor]
        self._lengths: Tensor  # (R,): tokens of each row's prompt
        self._written = 0
        self._position: Tensor

    def prefill(self, prompts: Sequence[Sequence[int]], repeats: int) -> Tensor:
        """Logits after each prompt, (P x repeats, V), a prompt's rows side by side."""
        device, config = self._weights.device, self._weights.config
        width, heads = max(map(len, prompts)), config.num_key_value_heads
        # Padded on the right: causality hides it from every real token, and no mask is needed.
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        positions = torch.arange(width + self._capacity, device=device)
        self._table = rotations(config, positions, self._weights.dtype)
        self._stems = _Stems([], [], self._padding_bias(lengths, width), repeats)
        rows = len(prompts) * repeats
        shape = (config.num_hidden_layers, 2, rows, heads, self._capacity, config.head_dim)
        # Zeros, for the static step multiplies what is not yet written by 0.
        make = torch.zeros if self.static else torch.empty
        self._own = make(shape, dtype=self._weights.attention_dtype, device=device)
        self._lengths = lengths.repeat_interleave(repeats)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        with torch.autocast(device.type, enabled=False):
            hidden = self._forward(ids, None)[torch.arange(len(prompts), device=device), lengths - 1]
            return self._weights.head(hidden.to(self._weights.dtype))[0].repeat_interleave(repeats, 0)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits after one more token a row, (R, V). tokens: (R,)."""
        with torch.autocast(self._weights.device.type, enabled=False):
            hidden = self._forward(tokens[:, None], self._plan())
            logits = self._weights.head(hidden[:, 0].to(self._weights.dtype))[0]
        self._position += 1
        self._written += 1
        return logits

    def rewind(self) -> None:
        """Undo the count of one step; the next one overwrites what it wrote."""
        self._position -= 1
        self._written -= 1

    def select_rows(self, rows: Tensor) -> None:
        """Keep the rows named, in ascending order; prompts without any are dropped too."""
        stems, heads = self._stems, self._weights.config.num_key_value_heads
        places = torch.arange(len(self._lengths), device=rows.device) if stems.slots is None else stems.slots
        prompt_index = places[rows] // stems.group
        kept, prompt_index, counts = prompt_index.unique_consecutive(return_inverse=True, return_counts=True)
        stems.group = int(counts.max())
        first = counts.cumsum(0) - counts
        stems.slots = prompt_index * stems.group + torch.arange(len(rows), device=rows.device) - first[prompt_index]
        stems.row_of = torch.zeros(len(kept) * stems.group, dtype=torch.int64, device=rows.device)
        stems.row_of[stems.slots] = torch.arange(len(rows), device=rows.device)
        if len(kept) * heads < len(stems.keys[0]):
            places = (kept[:, None] * heads + torch.arange(heads, device=rows.device)).flatten()
            stems.keys = [keys[places] for keys in stems.keys]
            stems.values = [values[places] for values in stems.values]
            stems.bias = None if stems.bias is None else stems.bias[places]
        self._own = self._own.index_select(2, rows)
        self._lengths = self._lengths[rows]

    def _padding_bias(self, lengths: Tensor, width: int) -> Tensor | None:
        padding = torch.arange(width, device=lengths.device) >= lengths[:, None]
        if not bool(padding.any()):
            return None
        bias = torch.zeros(padding.shape, dtype=self._weights.attention_dtype, device=lengths.device)
        bias = bias.masked_fill_(padding, -torch.inf)
        return bias.repeat_interleave(self._weights.config.num_key_value_heads, 0)[:, None]

    def _plan(self) -> _Step:
        positions = self._lengths + self._position
        cos, sin = (table[positions][:, None, None] for table in self._table)
        if not self.static:
            return _Step(cos, sin, self._position, self._written + 1, None)
        places = torch.arange(self._capacity, device=positions.device)
        bias = torch.zeros(self._capacity, dtype=self._weights.attention_dtype, device=positions.device)
        return _Step(cos, sin, self._position, self._capacity, bias.masked_fill_(places > self._position, -torch.inf))

    def _forward(self, ids: Tensor, step: _Step | None) -> Tensor:
        """ids: (P, S) of the prompts, or (R, 1) of a step. Returns (.., .., H) after the final norm."""
        model, dtype = self._weights.model.model, self._weights.dtype
        x = model.embed_tokens(ids)
        for index, (layer, (qkv, out, gate_up, down)) in enumerate(
            zip(model.layers, self._weights.layers, strict=True)
        ):
            assert isinstance(layer, DecoderLayer)
            attention, heads = layer.self_attn, (*ids.shape, -1, layer.self_attn.head_dim)
            q, k, v = (part.view(heads) for part in qkv(layer.input_layernorm(x).to(dtype)))
            q, k = attention.q_norm(q), attention.k_norm(k)
            mixed = self._attend_prompts(q, k, v) if step is None else self._attend(index, q, k, v, step)
            x = x + out(mixed.to(dtype))[0]
            gate, up = gate_up(layer.post_attention_layernorm(x).to(dtype))
            x = x + down(nn.functional.silu(gate) * up)[0]
        return model.norm(x)

    def _attend_prompts(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: (P, S, N, D); k, v: (P, S, K, D), which the stems take. Returns (P, S, N x D)."""
        cos, sin = (table[: q.shape[1]] for table in self._table)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        for held, part in ((self._stems.keys, k), (self._stems.values, v)):
            held.append(part.to(self._weights.attention_dtype).flatten(0, 1).contiguous())
        return attend(q, k, v, None, is_causal=True).transpose(1, 2).flatten(2)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, step: _Step) -> Tensor:
        """q: (R, 1, N, D); k, v: (R, 1, K, D). Returns (R, 1, N x D)."""
        stems, dtype = self._stems, self._weights.attention_dtype
        (rows, _, num_queries, size), heads = q.shape, k.shape[2]
        q, k = rotate(q, step.cos, step.sin).to(dtype), rotate(k, step.cos, step.sin)
        own_keys, own_values = self._own[layer]
        own_keys.index_copy_(2, step.position, k.transpose(1, 2).to(dtype))
        own_values.index_copy_(2, step.position, v.transpose(1, 2).to(dtype))
        own_keys, own_values = (part[:, :, : step.visible].flatten(0, 1) for part in (own_keys, own_values))
        queries = q.reshape(rows * heads, num_queries // heads, size) * size**-0.5
        own = torch.bmm(queries, own_keys.transpose(1, 2))
        own = own if step.bias is None else own + step.bias
        keys, values = stems.keys[layer], stems.values[layer]
        seen = torch.bmm(self._to_stems(queries, heads), keys.transpose(1, 2))
        seen = seen if stems.bias is None else seen + stems.bias
        shares = torch.cat((self._to_rows(seen, heads), own), -1).softmax(-1)
        seen, own = shares.split([keys.shape[1], step.visible], -1)
        mixed = torch.bmm(own, own_values) + self._to_rows(torch.bmm(self._to_stems(seen, heads), values), heads)
        return mixed.view(rows, 1, num_queries * size)

    def _to_stems(self, x: Tensor, heads: int) -> Tensor:
        """x: (R x K, Q, .) row by row. Returns (P x K, G x Q, .): the rows of a prompt side by side."""
        row_of, group = self._stems.row_of, self._stems.group
        x = x.unflatten(0, (-1, heads))
        x = x if row_of is None else x[row_of]
        return x.unflatten(0, (-1, group)).transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def _to_rows(self, x: Tensor, heads: int) -> Tensor:
        """The mirror of _to_stems."""
        slots, group = self._stems.slots, self._stems.group
        x = x.unflatten(0, (-1, heads)).unflatten(2, (group, -1)).transpose(1, 2).flatten(0, 1)
        x = x if slots is None else x[slots]
        return x.flatten(0, 1)
