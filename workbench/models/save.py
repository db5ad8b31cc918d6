"""A model that is in memory alone, with no folder that it was read from, as a Hugging Face folder."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from workbench.disk import make_folder, replacing
from workbench.models.passes import config_field, unwrapped
from workbench.models.reward_model import RewardModel, make_classifier, published
from workbench.models.weights import name_ends, write_tensors


def save_from_memory(model: torch.nn.Module, folder: Path, tokenizer: Any = None) -> None:
    """config.json, model.safetensors and the tokenizer's files, atomically; adapters are merged. A module without a
    configuration, which no other tool could load, leaves model.safetensors alone."""
    make_folder(folder.parent)
    with replacing(folder) as partial:
        _write(unwrapped(model), partial, tokenizer)


def _write(model: torch.nn.Module, folder: Path, tokenizer: Any) -> None:
    model = _merged_by_peft(model)
    language_model = model.trunk if isinstance(model, RewardModel) else model
    tensors = published(model)
    write_tensors(tensors, folder / "model.safetensors")
    config = _config_of(language_model)
    if config is None:
        return
    dtype = next(value.dtype for value in tensors.values() if value.is_floating_point())
    _write_json(folder / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})
    generation = config_field(language_model, "generation_config")
    if generation is not None:
        _write_json(folder / "generation_config.json", json.loads(generation.to_json_string()))
    if callable(getattr(tokenizer, "save", None)):
        tokenizer.save(folder)
        name_ends(folder, tokenizer.eos_ids)
    if isinstance(model, RewardModel):
        make_classifier(folder, language_model)


def _merged_by_peft(model: torch.nn.Module) -> torch.nn.Module:
    """What peft wraps, with the adapter merged in, of a model that it wraps; any other model as it is."""
    merge = getattr(model, "merge_and_unload", None)
    if not callable(merge):
        return model
    return copy.deepcopy(model).merge_and_unload()  # type: ignore[operator]


def _config_of(model: torch.nn.Module) -> dict[str, Any] | None:
    """config.json of a model; None where it has no configuration of transformers' kind."""
    config = config_field(model, "config")
    if callable(getattr(config, "to_json_string", None)):
        fields = json.loads(config.to_json_string())
        fields["architectures"] = [type(model).__name__]
    elif callable(getattr(config, "to_dict", None)):
        fields = dict(config.to_dict())
        fields.setdefault("architectures", [f"{fields['model_type'].capitalize()}ForCausalLM"])
    else:
        return None
    fields.pop("torch_dtype", None)
    fields.pop("quantization_config", None)  # what was held in fewer bits is written in full
    return fields


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
