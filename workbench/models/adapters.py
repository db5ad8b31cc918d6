"""LoRA through peft, on our own Llama and on transformers' models alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch

from workbench.errors import ModelError
from workbench.models.outputs import output_head
from workbench.models.settings import LoraSettings

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
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    vars(model)[_SETTINGS] = settings


def _target_layers(model: torch.nn.Module, settings: LoraSettings) -> list[str]:
    """Full names of the linear layers to adapt. ModelError for a target that names none.

    The output head is never one: losses multiply with its weight themselves, so an adapter on it would not be seen.
    """
    head = output_head(model)
    linear = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
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


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether add_lora was here."""
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


def merged_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter under the name it had before add_lora, adapters folded into the weights; tied ones once."""
    deltas: dict[str, torch.Tensor] = {
        f"{name}.weight": cast(Any, layer).get_delta_weight(_ADAPTER)
        for name, layer in model.named_modules()
        if has_adapter(model) and _is_lora(layer)
    }
    tensors = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        tensors[plain] = parameter + deltas[plain].to(parameter.dtype) if plain in deltas else parameter
    return tensors


def save_adapter(model: torch.nn.Module, folder: Path) -> None:
    """The adapter alone, in peft's format."""
    import json

    from safetensors.torch import save_file

    settings: LoraSettings = vars(model)[_SETTINGS]
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name.replace(f'.{_ADAPTER}', '')}": parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if "lora_" in name
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({name.rsplit(".", 1)[-1] for name, layer in model.named_modules() if _is_lora(layer)})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": targets,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _is_lora(module: torch.nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def _lora_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in model.modules() if _is_lora(module)]
