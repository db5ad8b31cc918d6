"""A peft adapter's settings: those that a merged model is computed of, each checked; all others are refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import ModelError
from workbench.models.tokenizer import read_json

_NAME = re.compile(r"[\w.-]+")
_HISTORY = ("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
            "inference_mode", "lora_dropout", "megatron_core", "qalora_group_size", "runtime_config", "loftq_config",
            "eva_config")  # fmt: skip
"""What tells of how the adapter was made, and changes nothing of what it computes now."""
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base as it is; the others subtract something of it."""


def _is_rank(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31


def _is_scale(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30 and math.isfinite(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and _NAME.fullmatch(name) for name in value)


def _by_name(is_value: Callable[[Any], bool]) -> Callable[[Any], bool]:
    # A key may be a regular expression, which may take for ever; those that are saved are names.
    return lambda value: isinstance(value, dict) and all(_NAME.fullmatch(k) and is_value(v) for k, v in value.items())


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, "a whole number > 0"),
    "lora_alpha": (_is_scale, "a number"),
    "use_rslora": (lambda value: isinstance(value, bool), "true or false"),
    "use_dora": (lambda value: isinstance(value, bool), "true or false"),
    "fan_in_fan_out": (lambda value: isinstance(value, bool), "true or false"),
    "rank_pattern": (_by_name(_is_rank), "ranks by names of layers"),
    "alpha_pattern": (_by_name(_is_scale), "numbers by names of layers"),
    "layers_to_transform": (
        lambda value: _is_rank(value) or value == 0 or (isinstance(value, list) and all(type(v) is int for v in value)),
        "layers' numbers",
    ),
    "layers_pattern": (lambda value: _is_names(value if isinstance(value, list) else [value]), "names of layers"),
    "exclude_modules": (_is_names, "a list of names"),
}


def read_adapter_config(folder: Path, name: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Arguments of peft's LoraConfig from the file. shapes: of the adapter's weights by name. Raises ModelError."""
    raw = read_json(folder / name)
    if raw.get("peft_type") != "LORA" or raw.get("modules_to_save"):
        found = f"modules_to_save {raw['modules_to_save']}" if raw.get("modules_to_save") else f"{raw.get('peft_type')}"
        raise ModelError(f"{folder}: an adapter of {found}; only LoRA on a model's own layers can be merged")
    found_config = {}
    for key, value in raw.items():
        if key in _CHECKS:
            is_valid, allowed = _CHECKS[key]
            if value is None and key in ("rank_pattern", "alpha_pattern", "exclude_modules", *_OPTIONAL):
                continue
            if not is_valid(value):
                raise ModelError(f"{folder / name}: {key} is {_shown(value)}; allowed {allowed}")
            found_config[key] = value
        elif key not in _HISTORY and not _changes_nothing(key, value):
            raise ModelError(f"{folder / name}: {key} is {_shown(value)}, which cannot be merged; merge it with peft")
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for rank in (found_config.get("r", 8), *found_config.get("rank_pattern", {}).values()):
        if rank > largest:
            raise ModelError(f"{folder / name}: a rank of {_shown(rank)}, more than its weights have")
    return found_config | {"target_modules": _targets(raw.get("target_modules"), shapes, folder / name)}


_OPTIONAL = ("layers_to_transform", "layers_pattern")


def _changes_nothing(key: str, value: Any) -> bool:
    if key == "bias":
        return value == "none"
    if key == "init_lora_weights":
        return any(value is start or (isinstance(start, str) and value == start) for start in _PLAIN_STARTS)
    return key == "target_modules" or value is None or value is False or value in ({}, [], "")


def _targets(value: Any, shapes: Mapping[str, Sequence[int]], path: Path) -> Any:
    """Names of layers; where the file has a pattern instead, those that have weights."""
    if _is_names(value) and value:
        return value
    if isinstance(value, str) and value:
        names = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in shapes if ".lora_" in name}
        return sorted(names)
    raise ModelError(f"{path}: target_modules is {_shown(value)}; allowed names of layers")


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 1 << 60 else "a giant number"
    return text if len(text) <= 60 else f"{text[:57]}..."
