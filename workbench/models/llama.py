"""Our own readable forward of Llama-family weights, equal to transformers' within 1e-5 and faster on small models.

Parameter names are Hugging Face's, so that model.safetensors is loaded and saved as it is.
Letters: B rows, T positions of this call, S positions attended to (cached and new), H hidden, V vocabulary,
N heads, K key-value heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from workbench.models.attention import Text, TextPlan, attend, attend_texts, positions_of
from workbench.models.llama_config import LlamaConfig


class KVCache:
    """Keys and values of the positions seen so far, preallocated for capacity positions (it grows when it must)."""

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self.length = 0
        self._store: Tensor | None = None  # (layers, 2, B, K, capacity, D)

    def get_seq_length(self) -> int:
        """Positions held (the name that transformers' caches use)."""
        return self.length

    @property
    def num_rows(self) -> int:
        """How many rows are held."""
        return 0 if self._store is None else self._store.shape[2]

    def reserve(self, num_layers: int, keys: Tensor, num_new: int) -> None:
        """Makes room for num_new more positions of keys' shape (B, K, T, D), dtype and device."""
        needed = self.length + num_new
        if self._store is not None and needed <= self.capacity:
            return
        rows, heads, _, size = keys.shape
        # Doubling keeps the copying linear when the final length is not known.
        self.capacity = max(self.capacity, needed if self._store is None else 2 * needed)
        grown = keys.new_empty(num_layers, 2, rows, heads, self.capacity, size)
        if self._store is not None:
            grown[..., : self.length, :] = self._store[..., : self.length, :]
        self._store = grown

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes one layer's new keys and values (B, K, T, D); returns all of its positions (B, K, S, D)."""
        assert self._store is not None, "reserve before append"
        end = self.length + keys.shape[2]
        layer_store = self._store[layer]
        layer_store[0, :, :, self.length : end] = keys
        layer_store[1, :, :, self.length : end] = values
        return layer_store[0, :, :, :end], layer_store[1, :, :, :end]

    def advance(self, num_new: int) -> None:
        """Counts num_new positions as held, once every layer has written them."""
        self.length += num_new

    def select_rows(self, indices: Tensor) -> None:
        """Keeps the rows at indices (R,), in that order; drops finished rows from the batch."""
        if self._store is not None:
            self._store = self._store.index_select(2, indices)

    def repeat_rows(self, repeats: int) -> None:
        """Each row repeats times, side by side: one prefill of a prompt serves its whole group."""
        if self._store is not None and repeats != 1:
            self._store = self._store.repeat_interleave(repeats, dim=2)


@dataclass
class CausalLMOutput:
    """logits: (B, T, V), None when not projected. hidden_states: (B, T, H) after the final norm."""

    logits: Tensor | None
    hidden_states: Tensor
    past_key_values: KVCache | None = None


@dataclass(frozen=True)
class AttentionPlan:
    """What every layer shares in one call: the rotation of each position, and who may attend to whom."""

    cos: Tensor  # (T, D) or (B, 1, T, D)
    sin: Tensor  # the same, its first half negated
    mask: Tensor | None  # (B, 1, T, S) bool, None when causal or when all may be attended to
    is_causal: bool
    cache: KVCache | None
    num_layers: int
    texts: TextPlan | None = None
    """The texts laid end to end in one row; they do not see one another."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: (..., D) turned by its position's angle; roll with a signed sine is rotate_half in one kernel less."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class RMSNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., H). Same shape and dtype."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)  # the fused kernel takes one dtype


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.output_bias)
        # Qwen3 norms each head of queries and keys before they are turned.
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, plan: AttentionPlan) -> Tensor:
        """x: (B, T, H), normed. Returns (B, T, H)."""
        heads = (*x.shape[:2], -1, self.head_dim)
        queries = rotate(self.q_norm(self.q_proj(x).view(heads)).transpose(1, 2), plan.cos, plan.sin)
        keys = rotate(self.k_norm(self.k_proj(x).view(heads)).transpose(1, 2), plan.cos, plan.sin)
        values = self.v_proj(x).view(heads).transpose(1, 2)
        if plan.cache is not None:
            if self.layer == 0:
                plan.cache.reserve(plan.num_layers, keys, x.shape[1])
            keys, values = plan.cache.append(self.layer, keys, values)
        if plan.texts is not None:
            mixed = attend_texts(queries, keys, values, plan.texts)
        else:
            mixed = attend(queries, keys, values, plan.mask, is_causal=plan.is_causal)
        return self.o_proj(mixed.transpose(1, 2).reshape(*x.shape[:2], -1))


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, H). Same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Attention and MLP, each before a norm and around a residual."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, plan: AttentionPlan) -> Tensor:
        """x: (B, T, H). Same shape."""
        x = x + self.self_attn(self.input_layernorm(x), plan)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaBackbone(nn.Module):
    """Embedding, layers and final norm: everything but the output head."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        # There is no padding_idx: it would drop the gradient of the pad token's input, the EOS's where pad == eos.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False

    def forward(self, input_ids: Tensor, plan: AttentionPlan) -> Tensor:
        """input_ids: (B, T). Returns (B, T, H)."""
        x = self.embed_tokens(input_ids)
        saves_memory = self.gradient_checkpointing and torch.is_grad_enabled()
        for layer in self.layers:
            x = checkpoint(layer, x, plan, use_reentrant=False) if saves_memory else layer(x, plan)
        return self.norm(x)


class Llama(nn.Module):
    """A causal language model whose parameters bear Hugging Face's names."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = LlamaBackbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def tie_weights(self) -> None:
        """Makes the head the embedding again where the configuration ties them (after weights were replaced)."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def output_weight(self) -> Tensor:
        """The head's matrix (V, H): losses project only the positions they need. There is no bias."""
        return self.lm_head.weight

    def get_input_embeddings(self) -> nn.Embedding:
        """The input embedding (transformers' and peft's name)."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        """The output head (transformers' and peft's name)."""
        return self.lm_head

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """Keep each layer's input alone for the backward pass, which computes the layer again (transformers' name)."""
        self.model.gradient_checkpointing = True

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: KVCache | None = None,
        use_cache: bool = False,
        project: bool = True,
        texts: Sequence[Text] | None = None,
    ) -> CausalLMOutput:
        """One pass over input_ids (B, T).

        attention_mask: None = plain causal, the fast path, right for right-padded rows too (their padding is never
        looked at by a real token); (B, S) true at real tokens, cached ones included; or (B, 1, T, S) bool, as it
        is. position_ids: (B, T), by default counted along attention_mask. texts: laid end to end in one row (1, T);
        their positions restart, they do not see one another, and the branches of one see its stem; without
        attention_mask. project=False leaves logits None: the caller projects hidden_states itself with output_weight
        (this way round DDP still sees the call). Outputs at padding are finite and mean nothing.
        """
        if use_cache and past_key_values is None:
            past_key_values = KVCache()
        if texts is not None:
            plan = self._plan_texts(texts, input_ids.device)
        else:
            plan = self._plan(input_ids, attention_mask, position_ids, past_key_values)
        hidden = self.model(input_ids, plan)
        if past_key_values is not None:
            past_key_values.advance(input_ids.shape[1])
        return CausalLMOutput(self.lm_head(hidden) if project else None, hidden, past_key_values)

    def _plan(
        self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, cache: KVCache | None
    ) -> AttentionPlan:
        past, new = (0 if cache is None else cache.length), input_ids.shape[1]
        mask: Tensor | None = None
        if attention_mask is not None:
            if position_ids is None and attention_mask.ndim == 2:
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
            mask = _allowed(attention_mask, past, new)
        elif past and new > 1:
            mask = _causal(past, new, input_ids.device)
        cos, sin = self._rotation(past, new, position_ids, input_ids.device)
        return AttentionPlan(cos, sin, mask, mask is None and new > 1, cache, self.config.num_hidden_layers)

    def _plan_texts(self, texts: Sequence[Text], device: torch.device) -> AttentionPlan:
        positions = positions_of(texts)
        cos, sin = self._rotation(0, int(positions.max()) + 1, None, device)
        positions = positions.to(device)
        cos, sin, num_layers = cos[positions], sin[positions], self.config.num_hidden_layers
        return AttentionPlan(cos, sin, None, False, None, num_layers, TextPlan(texts, device))

    def _rotation(
        self, past: int, new: int, position_ids: Tensor | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine of each position: rows of a table made once, or computed for explicit positions."""
        dtype = self.model.embed_tokens.weight.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        if position_ids is not None:
            cos, sin = rotations(self.config, position_ids, dtype)
            return cos[:, None], sin[:, None]
        table = self._tables.get((device, dtype))
        if table is None or len(table[0]) < past + new:
            length = max(64, 2 * (past + new))
            # A table made while sampling must serve training too, where autograd refuses inference tensors.
            with torch.inference_mode(False):
                table = rotations(self.config, torch.arange(length, device=device), dtype)
            self._tables[device, dtype] = table
        return table[0][past : past + new], table[1][past : past + new]


def rope_frequencies(config: LlamaConfig, device: torch.device | str = "cpu") -> Tensor:
    """Angle per position of each pair of features, radians, (D/2,) float32, after scaling (Llama 3.1's rule)."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling.rope_type == "linear":
        return frequencies / scaling.factor
    if scaling.rope_type == "default":
        return frequencies
    # Waves longer than the trained context are stretched, short ones kept, those between are blended.
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def rotations(config: LlamaConfig, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine (the first half negated) of each position, (..., D). positions: (...,)."""
    angles = positions[..., None].float() * rope_frequencies(config, positions.device)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def _causal(past: int, new: int, device: torch.device) -> Tensor:
    """(T, S) bool: the new positions see all past ones and themselves up to their own place."""
    return torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)


def _allowed(attention_mask: Tensor, past: int, new: int) -> Tensor:
    """(B, 1, T, S) bool of what may be attended to. Every position sees itself, so that no row is fully masked."""
    if attention_mask.ndim == 4:
        return attention_mask
    assert attention_mask.shape[1] == past + new, "attention_mask must cover the cached positions and the new ones"
    causal = _causal(past, new, attention_mask.device)
    itself = causal & ~causal.tril(-1 + past)
    return (causal & attention_mask[:, None, None, :].bool()) | itself
