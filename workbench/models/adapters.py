"""LoRA through peft, on our own Llama and on transformers' models alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from workbench.errors import ModelError
from workbench.models.settings import LoraSettings

_ADAPTER = "default"


def add_lora(model: torch.nn.Module, settings: LoraSettings, seed: int) -> None:
    """Freeze the model and inject adapters that start at zero: the model's outputs do not change yet."""
    import peft

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    head = model.get_output_embeddings()
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    targets = linear if settings.targets == "all-linear" else settings.targets
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            peft.inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
        except ValueError as error:
            raise ModelError(f"lora.targets: {error}; the model has {', '.join(linear[:7])}, ...") from error
    model.lora_settings = settings


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether add_lora was here."""
    return getattr(model, "lora_settings", None) is not None


@contextlib.contextmanager
def adapters_off(model: torch.nn.Module) -> Iterator[None]:
    """The model as it was before add_lora."""
    layers = _lora_layers(model)
    for layer in layers:
        layer._disable_adapters = True  # enable_adapters() would change requires_grad, and with it the optimiser
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter under the name it had before add_lora, adapters folded into the weights; tied ones once."""
    deltas = {
        f"{name}.weight": layer.get_delta_weight(_ADAPTER)
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

    settings: LoraSettings = model.lora_settings  # type: ignore[assignment]
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
