"""LoRA through peft, on our own Llama and on transformers' models alike."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch

from workbench.errors import ModelError
from workbench.models.adapter_config import read_adapter_config
from workbench.models.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, write_base
from workbench.models.passes import input_embedding, output_head
from workbench.models.quantised import plain_weight
from workbench.models.settings import LoraSettings
from workbench.models.weights import copy_other_files, read_safetensors, write_tensors

_ADAPTER = "default"
_SETTINGS = "lora_settings"


def add_lora(model: torch.nn.Module, settings: LoraSettings, seed: int) -> None:
    """Freeze the model and inject adapters that start at zero: the model's outputs do not change yet."""
    import peft

    targets = _target_layers(model, settings)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),  # a fraction serves: it is only ever divided by the rank
        lora_dropout=settings.dropout,
        target_modules=targets,
        use_rslora=settings.rank_stabilised,
        fan_in_fan_out=_is_transposed(model, targets),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    vars(model)[_SETTINGS] = settings


def _target_layers(model: torch.nn.Module, settings: LoraSettings) -> list[str]:
    """Full names of the linear layers to adapt. Raises ModelError for a target that names none.

    The output head is never one: losses multiply with its weight themselves, so an adapter on it would not be seen.
    """
    head = output_head(model)
    linear = [name for name, m in model.named_modules() if _is_linear(m) and m is not head]
    wanted = linear if settings.targets == "all-linear" else settings.targets
    known = sorted({name.rsplit(".", 1)[-1] for name in linear})
    for target in wanted:
        if not any(_is_named(name, target) for name in linear):
            raise ModelError(
                f"lora.targets: {target} is no linear layer that can be adapted; there are {', '.join(known)}"
            )
    if not linear:
        raise ModelError("lora: the model has no linear layer to adapt")
    return [name for name in linear if any(_is_named(name, target) for target in wanted)]


def _is_linear(module: torch.nn.Module) -> bool:
    """Conv1D is GPT-2's name of a linear layer whose weight lies the other way round."""
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def _is_transposed(model: torch.nn.Module, targets: list[str]) -> bool:
    return any(type(model.get_submodule(name)).__name__ == "Conv1D" for name in targets)


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether add_lora has changed the model."""
    return _SETTINGS in vars(model)


@contextlib.contextmanager
def adapters_off(model: torch.nn.Module) -> Iterator[None]:
    """The model as it was before add_lora."""
    layers = _lora_layers(model)
    _disable(layers, True)
    try:
        yield
    finally:
        _disable(layers, False)


def _disable(layers: list[torch.nn.Module], off: bool) -> None:
    for layer in layers:
        # enable_adapters() would change requires_grad, and with it the optimiser.
        vars(layer)["_disable_adapters"] = off


@torch.no_grad()
def merged_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every weight under the name it had before add_lora, adapters folded in; tied ones once. A buffer that belongs to
    the model's state is a weight too, learned or not.

    What was held in 4 bits is dequantised: the sum could not be held in them.
    """
    deltas: dict[str, torch.Tensor] = {}
    bases: dict[str, torch.Tensor] = {}
    for name, layer in model.named_modules():
        if has_adapter(model) and _is_lora(layer):
            deltas[f"{name}.weight"] = cast(Any, layer).get_delta_weight(_ADAPTER)
        elif _is_linear(layer):
            bases[f"{name}.weight"] = plain_weight(layer)
    tensors = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            continue
        plain, value = name.replace(".base_layer.", "."), bases.get(name, parameter)
        tensors[plain] = value + deltas[plain].to(value.dtype) if plain in deltas else value
    state = model.state_dict()
    for name, buffer in model.named_buffers():
        if name in state:
            tensors[name.replace(".base_layer.", ".")] = buffer
    return tensors


def save_adapter(model: torch.nn.Module, folder: Path, base: Path) -> None:
    """The adapter alone, in peft's format. base: the folder of the model that it was added to."""
    settings: LoraSettings = vars(model)[_SETTINGS]
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name.replace(f'.{_ADAPTER}', '')}": parameter
        for name, parameter in model.named_parameters()
        if "lora_" in name
    }
    write_tensors(tensors, folder / ADAPTER_WEIGHTS)
    targets = [name for name, layer in model.named_modules() if _is_lora(layer)]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.resolve()),
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rank_stabilised,
        "target_modules": sorted(targets),
        "fan_in_fan_out": any(cast(Any, layer).fan_in_fan_out for layer in _lora_layers(model)),
        "bias": "none",
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def saved_adapter(model: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """What save_adapter wrote of this model, by the model's own names."""
    tensors = read_safetensors(folder / ADAPTER_WEIGHTS)
    names = (name for name, _ in model.named_parameters() if "lora_" in name)
    return {name: tensors[f"base_model.model.{name.replace(f'.{_ADAPTER}', '')}"] for name in names}


def saves_adapter_alone(model: torch.nn.Module) -> bool:
    """Whether the model was asked to be saved as its adapter and the name of its base."""
    return has_adapter(model) and vars(model)[_SETTINGS].save == "adapter"


def lay_over(base: Path, adapter: Path, folder: Path) -> None:
    """Write a new folder that is base's model with the adapter: nothing of the base's weights is copied."""
    folder.mkdir(parents=True, exist_ok=True)
    copy_other_files(base, folder)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        shutil.copyfile(adapter / name, folder / name)
    write_base(folder, base)


def merge_adapter(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """The base model with a peft LoRA folder folded into its weights, in place. Raises ModelError where it does not
    fit."""
    import peft
    from peft.utils.save_and_load import set_peft_model_state_dict

    tensors = read_safetensors(folder / ADAPTER_WEIGHTS)
    settings = read_adapter_config(folder, ADAPTER_CONFIG, {name: value.shape for name, value in tensors.items()})
    _refuse_tied_head(model, list(tensors), folder)
    try:
        adapted = peft.LoraModel(model, {_ADAPTER: peft.LoraConfig(**settings)}, _ADAPTER)
        named = {name.removeprefix("base_model."): tensor for name, tensor in tensors.items()}
        loaded: Any = set_peft_model_state_dict(adapted, named)
    except Exception as error:  # layers that are not there, shapes, settings that exclude each other: of every kind
        lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
        raise ModelError(f"{folder}: not an adapter of this base: {' '.join(lines[1:2] or lines)}") from error
    odd = [*loaded.unexpected_keys, *(name for name in loaded.missing_keys if "lora_" in name)]
    if odd:
        raise ModelError(f"{folder}: not an adapter of this base: {len(odd)} weights have no place, such as {odd[0]}")
    try:
        return adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"{folder}: its weights, folded in, are no finite numbers; train the adapter anew") from error


def _refuse_tied_head(model: torch.nn.Module, names: list[str], folder: Path) -> None:
    head, embedding = output_head(model), input_embedding(model)
    if head is None or embedding is None or head.weight is not embedding.weight:
        return
    tables = {name for name, module in model.named_modules() if module is head or module is embedding}
    for name in names:
        if any(f".{table}.lora_" in name for table in tables):
            raise ModelError(f"{folder}: {name} adapts one of the tied embedding and head; no merged model holds that")


def _is_lora(module: torch.nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def _lora_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in model.modules() if _is_lora(module)]
