"""The part of a Hugging Face config.json that our own Llama forward needs, and what it cannot run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
"""Model types that are this one forward: Qwen2 with biases at queries, keys and values, Qwen3 with norms there."""


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched: "default" not at all, "linear" all by factor, "llama3" the slow ones."""

    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True)
class LlamaConfig:
    """The part of a Hugging Face config.json that the forward needs; raw holds the file as it was."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    qk_norm: bool
    mlp_bias: bool
    raw: Mapping[str, Any]

    @property
    def eos_token_id(self) -> int | list[int] | None:
        """What ends a text, where the file says so (transformers' name)."""
        return self.raw.get("eos_token_id")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> LlamaConfig:
        """Reads config.json as transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters) writes it.

        Call unsupported_reason first: what it names is not looked at here.
        """
        heads, kind = raw["num_attention_heads"], raw["model_type"]
        bias = raw.get("attention_bias", False)
        rope = _rope_parameters(raw)
        scaling = {key: rope[key] for key in RopeScaling.__dataclass_fields__ if key in rope}
        return cls(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_hidden_layers=raw["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or (128 if kind == "qwen3" else raw["hidden_size"] // heads),
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope_theta=rope.get("rope_theta", 10_000.0),
            rope_scaling=RopeScaling(**scaling),
            tie_word_embeddings=raw.get("tie_word_embeddings", False),
            qkv_bias=bias or kind == "qwen2",
            output_bias=bias,
            qk_norm=kind == "qwen3",
            mlp_bias=raw.get("mlp_bias", False),
            raw=dict(raw),
        )

    def to_dict(self) -> dict[str, Any]:
        """config.json as it was read."""
        return dict(self.raw)

    def get(self, key: str, default: Any = None) -> Any:
        """One field of config.json (peft asks for some)."""
        return self.raw.get(key, default)


def _rope_parameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings under their one current name, whichever release of transformers wrote them."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.pop("type", "default"))
    if raw.get("rope_theta") is not None:
        rope.setdefault("rope_theta", raw["rope_theta"])
    return rope


def _slides(raw: Mapping[str, Any]) -> bool:
    """Whether a text as long as the model allows would be cut by a sliding window (Qwen's is off unless it says so)."""
    if "sliding_attention" in (raw.get("layer_types") or ()):
        return True
    if raw["model_type"].startswith("qwen"):
        return bool(raw.get("use_sliding_window"))
    window = raw.get("sliding_window")
    return window is not None and window < raw.get("max_position_embeddings", math.inf)


def unsupported_reason(raw: Mapping[str, Any]) -> str | None:
    """Why this forward cannot run the given config.json (transformers' must), or None when it can."""
    if raw.get("model_type") not in FAMILY:
        return f"model_type is {raw.get('model_type')!r}"
    if _slides(raw):
        return "attention is limited to a sliding window"
    rope_type = _rope_parameters(raw)["rope_type"]
    if rope_type not in ("default", "linear", "llama3"):
        return f"rope_type is {rope_type!r}"
    if raw.get("hidden_act", "silu") != "silu":
        return f"hidden_act is {raw['hidden_act']!r}"
    if raw.get("attention_dropout"):
        return "attention_dropout is not 0"
    if raw.get("partial_rotary_factor", 1.0) != 1.0 or _rope_parameters(raw).get("partial_rotary_factor", 1.0) != 1.0:
        return "partial_rotary_factor is not 1"
    if raw.get("quantization_config"):
        return "the weights are quantised"
    return None


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
