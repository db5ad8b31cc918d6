"""Models in and out: Hugging Face folders as safetensors. No pickles, no remote code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from workbench.disk import writing
from workbench.errors import ModelError, StorageError
from workbench.models import adapters
from workbench.models.folder import adapter_base, check_folder, is_adapter, write_base
from workbench.models.llama import Llama
from workbench.models.llama_config import LlamaConfig, unsupported_reason
from workbench.models.quantised import num_weights, quantise_linear_layers
from workbench.models.settings import LoraSettings
from workbench.models.weights import copy_other_files, load_weights, write_model


def load_model(
    folder: Path, *, device: str = "cpu", dtype: str = "float32", lora: LoraSettings | None = None
) -> torch.nn.Module:
    """The causal language model of a folder: our own Llama where it can run it, else transformers'.

    A folder that is an adapter on a base gives the merged model. lora: of the run that it is for; its linear layers are
    held as that run holds them (no adapter is added).
    """
    check_folder(folder)
    if is_adapter(folder):
        model = adapters.merge_adapter(load_model(adapter_base(folder), dtype=dtype), folder)
    else:
        model = _load_whole(folder, dtype)
    if lora is not None and lora.quantise is not None:
        quantise_linear_layers(model)
    return model.to(device)


def save_model(model: torch.nn.Module, folder: Path, source: Path) -> None:
    """A Hugging Face folder that other tools load as it is: adapters merged (and kept beside, in adapter/), or the
    adapter alone where its settings say so. source: the folder that the model was loaded from."""
    partial = folder.with_name(folder.name + ".partial")
    try:
        with writing(folder):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _write_model(model, partial, source)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    except StorageError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_model(model: torch.nn.Module, folder: Path, source: Path) -> None:
    if adapters.saves_adapter_alone(model):
        adapters.save_adapter(model, folder, source)
        copy_other_files(source, folder)
        write_base(folder, source)
        return
    if adapters.has_adapter(model):
        adapters.save_adapter(model, folder / "adapter", source)
    write_model(adapters.merged_tensors(model), folder, source)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Trainable and frozen parameters."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trained, sum(num_weights(parameter) for parameter in model.parameters()) - trained


def _load_whole(folder: Path, dtype: str) -> torch.nn.Module:
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        _refuse_what_is_never_loaded(raw, folder)
        config = LlamaConfig.from_dict(raw) if unsupported_reason(raw) is None else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder}/config.json: not a model's configuration ({type(error).__name__}: {error})"
        ) from error
    if config is None:
        return _load_by_transformers(folder, dtype, "auto_map" in raw)
    model = Llama(config).to(getattr(torch, dtype))
    load_weights(model, folder)
    return model


def _refuse_what_is_never_loaded(raw: dict[str, Any], folder: Path) -> None:
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "some method")
        raise ModelError(f"{folder}: its weights are quantised ({method}); name the full ones, and lora.quantise")


def _load_by_transformers(folder: Path, dtype: str, has_own_code: bool) -> torch.nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        code = "; the folder's own code (auto_map) is never run" if has_own_code else ""
        raise ModelError(f"{folder}: transformers cannot load it: {str(error).splitlines()[0]}{code}") from error
