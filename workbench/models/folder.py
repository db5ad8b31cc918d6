"""Which folder a model is, and what identifies it; nothing here loads torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workbench.config import file_sha256, files_fingerprint, fingerprint
from workbench.errors import ModelError
from workbench.models import gguf
from workbench.models.settings import ModelSettings
from workbench.models.smollm2 import SMOLLM2_NAME
from workbench.models.tokenizer import Tokenizer, read_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_FILE = "base.json"
ADDED_TOKENS_VERSION = 1
"""Raised where vocabulary.add_tokens makes other weights."""
"""Beside an adapter that is a model of its own: its base's folder and fingerprint."""


def find_model_folder(settings: ModelSettings) -> Path:
    """The folder of a model given by path or hub name, checked. ModelError."""
    if settings.path is None:
        assert settings.name is not None, "presets and conversions are made by resolve.resolve_model_folder"
        return _from_hub(settings.name)
    folder = Path(settings.path).expanduser()
    check_folder(folder)
    return folder


def find_gguf(settings: ModelSettings) -> Path | None:
    """The .gguf file that a path means: the file itself, or the only one of a folder that is no Hugging Face model."""
    path = Path(settings.path).expanduser() if settings.path is not None else None
    if path is None or (path / "config.json").is_file() or is_adapter(path):
        return None
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{path}: a file that is no .gguf; name a Hugging Face folder, or a .gguf file")
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:6])
        raise ModelError(f"{path}: {len(files)} GGUF files; name one of them: {names}")
    return files[0] if files else None


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a peft adapter and no whole model."""
    return (folder / ADAPTER_CONFIG).is_file() and not list(folder.glob("model*.safetensors"))


def weights_file(folder: Path) -> Path:
    """The weights that save_model writes: of a whole model, or of an adapter alone."""
    return folder / (ADAPTER_WEIGHTS if is_adapter(folder) else "model.safetensors")


def model_fingerprint(folder: Path) -> str:
    """Of weights, configuration and tokenizer; an adapter's base counts with it."""
    names = [path.name for path in sorted(folder.glob("*.safetensors"))]
    parts = [files_fingerprint(folder, [*names, "config.json"]), Tokenizer.load(folder).fingerprint]
    if is_adapter(folder):
        parts += [adapter_fingerprint(folder), str(read_json(folder / BASE_FILE).get("model"))]
    return fingerprint(parts)


def settings_identity(settings: ModelSettings) -> Any:
    """Of the model that settings name, before anything is converted; a preset's is name, seed and maker's version."""
    identity = _plain_identity(settings)
    if settings.adapter is not None:
        identity = {"model": identity, "adapter": adapter_fingerprint(Path(settings.adapter).expanduser())}
    if settings.add_tokens:
        identity = {"model": identity, "add_tokens": settings.add_tokens, "version": ADDED_TOKENS_VERSION}
    return identity


def _plain_identity(settings: ModelSettings) -> Any:
    if settings.preset is not None:
        return {"preset": settings.preset, "seed": settings.seed, "version": 1}
    if settings.name is not None and settings.name.lower() == SMOLLM2_NAME:
        return {"name": SMOLLM2_NAME, "version": 1}
    file = find_gguf(settings)
    if file is not None:
        return {"gguf": file_sha256(file), "version": gguf.VERSION}
    if settings.path is not None and is_adapter(folder := Path(settings.path).expanduser()):
        return {"model": model_fingerprint(adapter_base(folder)), "adapter": adapter_fingerprint(folder)}
    return model_fingerprint(find_model_folder(settings))


def adapter_fingerprint(folder: Path) -> str:
    """Of an adapter's weights and settings, whatever its base. ModelError."""
    if not (folder / ADAPTER_CONFIG).is_file() or not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{folder}: no adapter; a peft folder holds {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}")
    return files_fingerprint(folder, [ADAPTER_CONFIG, ADAPTER_WEIGHTS])


def adapter_base(folder: Path) -> Path:
    """The folder of the model that an adapter stands on: as written beside it, else as peft names it. ModelError where
    it is not here, or is no longer the one that the adapter was trained on."""
    written = read_json(folder / BASE_FILE)
    name = written.get("folder") or read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not name or not ((Path(name) / "config.json").is_file() or is_adapter(Path(name))):
        raise ModelError(
            f"{folder}: the adapter's base is {name or 'not named'}, which is no model folder here; "
            "name it: model: {path: base, adapter: this folder}"
        )
    if written and model_fingerprint(Path(name)) != written.get("model"):
        raise ModelError(f"{folder}: its base {name} has changed since the adapter was trained; train the adapter anew")
    return Path(name)


def write_base(folder: Path, base: Path) -> None:
    """Note beside an adapter which model it stands on."""
    note = {"folder": str(base.resolve()), "model": model_fingerprint(base)}
    (folder / BASE_FILE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def check_folder(folder: Path) -> None:
    """ModelError when the folder holds no causal language model as safetensors, whole or as an adapter on its base."""
    if is_adapter(folder):
        adapter_fingerprint(folder)
        return
    if not (folder / "config.json").is_file():
        found = "no config.json" if folder.is_dir() else "no such file or folder"
        raise ModelError(f"{folder}: {found}; a model is a Hugging Face folder of a causal language model")
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        found = f"only {pickled[0]}, a pickle, which is never loaded" if pickled else "no weights"
        raise ModelError(f"{folder}: {found}; save it with model.save_pretrained(folder, safe_serialization=True)")


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]))
    except Exception as error:  # the library raises many kinds, offline ones among them
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model.name {name}: the hub cannot give it ({first}); name a local folder with path"
        ) from error
