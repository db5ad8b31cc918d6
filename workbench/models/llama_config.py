"""The part of a Hugging Face config.json that our own Llama forward needs, and what it cannot run; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
"""Model types that are this one forward: Qwen2 with biases at queries, keys and values, Qwen3 with norms there."""
_DEFAULTS: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": None,
    "num_key_value_heads": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
}
_QWEN = {
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
}
FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"vocab_size": 32_000, "intermediate_size": 11_008, "max_position_embeddings": 2048},
    "mistral": {
        "vocab_size": 32_000,
        "intermediate_size": 14_336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "sliding_window": 4096,
    },
    "qwen2": _QWEN,
    "qwen3": _QWEN | {"head_dim": 128},
}
"""The values of what config.json leaves out, by family; a test holds them to transformers' classes."""
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "max_position_embeddings")  # fmt: skip
_MAY_BE_NONE = {"num_key_value_heads": ("llama", "qwen2", "qwen3"), "head_dim": ("llama", "mistral")}
"""Fields that transformers takes null for, by family."""
_ROPE_FIELDS = {
    "default": ("rope_theta",),
    "linear": ("rope_theta", "factor"),
    "llama3": ("rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
}
"""Rotary settings that a type needs; without one, transformers says what becomes of it."""
_ALL_ROPE_FIELDS = {"rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor",
                    "original_max_position_embeddings", "partial_rotary_factor"}  # fmt: skip


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched: "default" not at all, "linear" all by factor, "llama3" the slow ones."""

    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 0


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
        values, kind = with_defaults(raw), raw["model_type"]
        heads, has_bias = values["num_attention_heads"], kind in ("llama", "qwen3") and values["attention_bias"]
        rope = _rope_parameters(raw)
        scaling = {key: rope[key] for key in RopeScaling.__dataclass_fields__ if key in rope}
        if rope["rope_type"] == "llama3":
            scaling.setdefault("original_max_position_embeddings", values["max_position_embeddings"])
        return cls(
            vocab_size=values["vocab_size"],
            hidden_size=values["hidden_size"],
            intermediate_size=values["intermediate_size"],
            num_hidden_layers=values["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=values["num_key_value_heads"] or heads,
            head_dim=values["head_dim"] or values["hidden_size"] // heads,
            rms_norm_eps=values["rms_norm_eps"],
            rope_theta=rope["rope_theta"],
            rope_scaling=RopeScaling(**scaling),
            tie_word_embeddings=values["tie_word_embeddings"],
            qkv_bias=has_bias or kind == "qwen2",
            output_bias=has_bias,
            qk_norm=kind == "qwen3",
            mlp_bias=kind == "llama" and values["mlp_bias"],
            raw=dict(raw),
        )

    def to_dict(self) -> dict[str, Any]:
        """config.json as it was read."""
        return dict(self.raw)

    def get(self, key: str, default: Any = None) -> Any:
        """One field of config.json (peft asks for some)."""
        return self.raw.get(key, default)


def with_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The file's fields, and for those that it leaves out what transformers' class of its family has."""
    return _DEFAULTS | FAMILY_DEFAULTS[raw["model_type"]] | dict(raw)


def _rope_parameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings under their one current name, whichever release of transformers wrote them.

    As transformers 5 reads them: the old name wins over the new, and what stands inside over what stands beside it.
    """
    rope = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    rope.setdefault("rope_type", rope.pop("type", "default"))
    rope.setdefault("rope_theta", raw.get("rope_theta", 10_000.0))
    return rope


def _rope_reason(raw: Mapping[str, Any]) -> str | None:
    if not all(isinstance(raw.get(name, {}), dict | type(None)) for name in ("rope_scaling", "rope_parameters")):
        return "its rotary settings are no mapping"
    rope = _rope_parameters(raw)
    wanted = _ROPE_FIELDS.get(rope["rope_type"]) if isinstance(rope["rope_type"], str) else None
    if wanted is None:
        return f"rope_type is {rope['rope_type']!r}"
    if raw.get("partial_rotary_factor", 1.0) != 1.0 or rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "partial_rotary_factor is not 1"
    for name in wanted:
        if not _is_number(rope.get(name)) or rope[name] <= 0:
            return f"rope: {name} is {rope.get(name)!r}"
    length = rope.get("original_max_position_embeddings", 1)
    if rope["rope_type"] == "llama3":
        if rope["low_freq_factor"] >= rope["high_freq_factor"]:
            return "rope: low_freq_factor is not below high_freq_factor"
        if type(length) is not int or length < 1 or "original_max_position_embeddings" in raw:
            return "rope: original_max_position_embeddings is not where it is looked for"
    unknown = sorted(name for name in rope if name not in _ALL_ROPE_FIELDS)
    return f"rope: {unknown[0]!r} is not known" if unknown else None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _slides(raw: Mapping[str, Any]) -> bool:
    """Whether a text as long as the model allows would be cut by a sliding window (Qwen's is off unless it says so)."""
    values = with_defaults(raw)
    kinds = values.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * values["num_hidden_layers"]:
        return True
    if raw["model_type"].startswith("qwen"):
        return bool(values["use_sliding_window"])
    window = values.get("sliding_window") if raw["model_type"] == "mistral" else None
    return window is not None and not (type(window) is int and window > values["max_position_embeddings"])


def _shape_reason(raw: Mapping[str, Any]) -> str | None:
    """What of the fields is not of transformers' own type, or makes no shape: transformers says what becomes of it."""
    values = with_defaults(raw)
    for name in _SIZES:
        if type(values[name]) is not int or not 0 < values[name] < 1 << 31:
            return f"{name} is {str(values[name])[:40]}"
    for name in ("num_key_value_heads", "head_dim"):
        value, may_be_none = values[name], name not in raw or raw["model_type"] in _MAY_BE_NONE[name]
        if not (value is None and may_be_none) and (type(value) is not int or not 0 < value < 1 << 31):
            return f"{name} is {str(value)[:40]}"
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    size = values["head_dim"] or hidden // heads
    if hidden % heads or heads % (values["num_key_value_heads"] or heads) or size % 2:
        return "its heads do not divide its width"
    for name in ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"):
        if type(values[name]) is not bool:
            return f"{name} is {values[name]!r}"
    eps = values["rms_norm_eps"]
    return None if type(eps) is float and 0 <= eps < 1 else f"rms_norm_eps is {str(eps)[:40]}"


def unsupported_reason(raw: Mapping[str, Any]) -> str | None:
    """Why this forward cannot run the given config.json (transformers' must), or None when it can.

    Whatever is not just as transformers documents it is named too: there it is computed right, or refused.
    """
    if raw.get("model_type") not in FAMILY:
        return f"model_type is {raw.get('model_type')!r}"
    shape = _shape_reason(raw)
    if shape is not None:
        return shape
    if _slides(raw):
        return "attention is limited to a sliding window"
    if raw.get("hidden_act", "silu") != "silu":
        return f"hidden_act is {raw['hidden_act']!r}"
    if raw.get("attention_dropout", 0.0) != 0.0:
        return "attention_dropout is not 0"
    if raw.get("quantization_config"):
        return "the weights are quantised"
    if raw.get("per_layer_config"):
        return "its layers differ (per_layer_config)"
    return _rope_reason(raw)
