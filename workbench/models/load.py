"""Models in and out: Hugging Face folders as safetensors, presets, SmolLM2, hub names. No pickles, no remote code."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch

from workbench.errors import ModelError
from workbench.models import adapters
from workbench.models.folder import check_folder, find_model_folder
from workbench.models.llama import Llama
from workbench.models.llama_config import LlamaConfig, unsupported_reason
from workbench.models.presets import make_preset
from workbench.models.settings import ModelSettings
from workbench.models.smollm2 import SMOLLM2_NAME, convert_smollm2
from workbench.models.tokenizer import TOKENIZER_FILES, Tokenizer


def resolve_model_folder(settings: ModelSettings, cache: Path) -> Path:
    """The folder of the model named; presets and conversions are made once under `cache`. ModelError."""
    if settings.path is not None or (settings.name is not None and settings.name.lower() != SMOLLM2_NAME):
        return find_model_folder(settings)
    label = f"{settings.preset}-seed{settings.seed}" if settings.preset else SMOLLM2_NAME
    folder = cache / f"model-v1-{label}"
    if not folder.exists():
        # Runs side by side may make the same model: each its own, and the first to finish is kept.
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        if settings.preset:
            make_preset(settings.preset, partial, settings.seed)
        else:
            convert_smollm2(partial)
        try:
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            if not folder.is_dir():
                raise
    return folder


def load_model(folder: Path, *, device: str = "cpu", dtype: str = "float32") -> torch.nn.Module:
    """The causal language model of a folder: our own Llama where it can run it, else transformers'."""
    check_folder(folder)
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = LlamaConfig.from_dict(raw) if unsupported_reason(raw) is None else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder}/config.json: not a model's configuration ({type(error).__name__}: {error})"
        ) from error
    if config is None:
        return _load_by_transformers(folder, dtype).to(device)
    model = Llama(config).to(getattr(torch, dtype))
    _load_weights(model, folder)
    return model.to(device)


def save_model(model: torch.nn.Module, folder: Path, source: Path) -> None:
    """A Hugging Face folder that other tools load as it is: adapters merged (and kept beside, in adapter/)."""
    from safetensors.torch import save_file

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if adapters.has_adapter(model):
        adapters.save_adapter(model, partial / "adapter")
    tensors = {name: value.detach().cpu().contiguous() for name, value in adapters.merged_tensors(model).items()}
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "generation_config.json", *TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, partial / name)
    Tokenizer.load(source).save(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Trainable and frozen parameters."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trained, sum(parameter.numel() for parameter in model.parameters()) - trained


def _load_weights(model: Llama, folder: Path) -> None:
    own = dict(model.named_parameters())
    tensors = _read_tensors(folder)
    missing = sorted(own.keys() - tensors.keys())
    if missing:
        raise ModelError(f"{folder}: {len(missing)} weights are missing, such as {missing[0]}")
    # Old files hold rotary tables, and some a copy of the tied head; any other weight says that the model is another.
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    unknown = sorted(name for name in tensors.keys() - own.keys() - tied if not name.endswith(".inv_freq"))
    if unknown:
        raise ModelError(f"{folder}: config.json has no place for {len(unknown)} weights, such as {unknown[0]}")
    with torch.no_grad():
        for name, parameter in own.items():
            found, wanted = tuple(tensors[name].shape), tuple(parameter.shape)
            if found != wanted:
                raise ModelError(f"{folder}: {name} has shape {found}; config.json asks for {wanted}")
            parameter.copy_(tensors[name])


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors")):
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: not readable as safetensors ({error}); copy or save it again") from error
    return tensors


def _load_by_transformers(folder: Path, dtype: str) -> torch.nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{folder}: transformers cannot load it: {str(error).splitlines()[0]}") from error
