"""Models in and out: Hugging Face folders as safetensors. No pickles, no remote code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from workbench.disk import replacing
from workbench.errors import ModelError
from workbench.inputs import Inputs
from workbench.models import adapters, sizes
from workbench.models.by_transformers import load_by_transformers
from workbench.models.folder import adapter_base, check_folder, is_adapter, refuse_classifier, write_base
from workbench.models.llama import Llama
from workbench.models.llama_config import LlamaConfig, unsupported_reason
from workbench.models.own_check import load_checked
from workbench.models.quantised import num_weights, quantise_linear_layers
from workbench.models.reward_model import RewardModel, make_classifier, published
from workbench.models.settings import LoraSettings
from workbench.models.tokenizer import read_json
from workbench.models.verdict_cache import remember_verdict
from workbench.models.weights import (
    check_places,
    check_tied_weights,
    check_weights,
    copy_other_files,
    name_ends,
    write_model,
)


def load_model(
    folder: Path | str, *, device: str = "cpu", dtype: str = "float32", lora: LoraSettings | None = None
) -> torch.nn.Module:
    """The causal language model of a folder: our own Llama where it can run it, else transformers'.

    A folder that is an adapter on a base gives the merged model. lora: of the run that it is for; its linear layers are
    held as that run holds them (no adapter is added).
    """
    folder = Path(folder)
    check_folder(folder)
    refuse_classifier(folder)
    if is_adapter(folder):
        model = adapters.merge_adapter(load_model(adapter_base(folder), dtype=dtype), folder)
    else:
        model = _load_whole(folder, dtype)
    if lora is not None and lora.quantise is not None:
        quantise_linear_layers(model)
    return model.to(device)


def save_model(model: torch.nn.Module, folder: Path, source: Path, *, ends: Sequence[int] = ()) -> None:
    """A Hugging Face folder that other tools load as it is: adapters merged (and kept beside, in adapter/), or the
    adapter alone where its settings say so. source: the folder that the model was loaded from. ends: ids that end a
    sequence, which generation_config.json is to name."""
    with replacing(folder) as partial:
        _write_model(model, partial, source)
        name_ends(partial, ends)


def _write_model(model: torch.nn.Module, folder: Path, source: Path) -> None:
    if adapters.saves_adapter_alone(model):
        adapters.save_adapter(model, folder, source)
        copy_other_files(source, folder)
        write_base(folder, source)
        return
    if adapters.has_adapter(model):
        adapters.save_adapter(model, folder / "adapter", source)
    write_model(published(model), folder, source)
    if isinstance(model, RewardModel):
        make_classifier(folder, model.trunk)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Trainable and frozen parameters."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trained, sum(num_weights(parameter) for parameter in model.parameters()) - trained


def _load_whole(folder: Path, dtype: str) -> torch.nn.Module:
    raw = read_json(folder / "config.json")
    if raw.get("quantization_config"):
        found = raw["quantization_config"]
        method = found.get("quant_method", "some method") if isinstance(found, dict) else "some method"
        raise ModelError(f"{folder}: its weights are quantised ({method}); name the full ones, and lora.quantise")
    if not raw.get("is_causal", True):
        raise ModelError(f"{folder}: is_causal is off in config.json: every token would see what follows it")
    inputs = Inputs(sorted(folder.glob("*")))
    shapes = check_weights(folder)
    sizes.check_config(raw, shapes, folder)
    forward = ""
    if unsupported_reason(raw) is None:
        own, forward = _load_own(raw, folder, shapes, getattr(torch, dtype), inputs)
        if not forward:
            return own
        del own
    model = load_by_transformers(folder, raw, shapes, getattr(torch, dtype))
    remember_verdict(model, folder, inputs, forward)
    return model


def _load_own(
    raw: Mapping[str, Any], folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, inputs: Inputs
) -> tuple[Llama, str]:
    """Our own model, and why it is not the folder's."""
    config = LlamaConfig.from_dict(raw)
    with torch.device("meta"):
        check_places(shapes, Llama(config), folder)
    if config.tie_word_embeddings:
        check_tied_weights(folder, shapes, "lm_head.weight", "model.embed_tokens.weight")
    model = Llama(config).to(dtype)
    return model, load_checked(model, raw, folder, shapes, inputs)
