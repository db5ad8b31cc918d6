"""A folder's safetensors: read into a model, and written with the configuration and tokenizer that they go with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from workbench.errors import ModelError
from workbench.models.llama import Llama
from workbench.models.tokenizer import TOKENIZER_FILES, Tokenizer

CONFIG_FILES = ("config.json", "generation_config.json")


def load_weights(model: Llama, folder: Path) -> None:
    """Copy the folder's weights into our own model. ModelError where names or shapes are not its configuration's."""
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


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """One safetensors file."""
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})


def write_model(
    tensors: Mapping[str, torch.Tensor], folder: Path, source: Path, changes: Mapping[str, Any] | None = None
) -> None:
    """A whole model in a new folder: the tensors, and source's other files with `changes` laid over config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, folder / "model.safetensors")
    copy_other_files(source, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    # transformers loads in the precision named here: a source in bfloat16 would have our float32 rounded.
    config.pop("torch_dtype", None)
    config |= {"dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch.")} | dict(changes or {})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def copy_other_files(source: Path, folder: Path) -> None:
    """Configuration and tokenizer, as they are."""
    for name in (*CONFIG_FILES, *TOKENIZER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    Tokenizer.load(source).save(folder)


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors")):
        tensors |= read_safetensors(path)
    return tensors


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """One file's tensors. ModelError where it is torn."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable as safetensors ({error}); copy or save it again") from error
