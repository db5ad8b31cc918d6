"""Which folder a model is, and what identifies it; nothing here loads torch."""

from __future__ import annotations

from pathlib import Path

from workbench.config import files_fingerprint, fingerprint
from workbench.errors import ModelError
from workbench.models.settings import ModelSettings
from workbench.models.tokenizer import Tokenizer


def find_model_folder(settings: ModelSettings) -> Path:
    """The folder of a model given by path or hub name, checked. ModelError."""
    if settings.path is None:
        assert settings.name is not None, "presets and conversions are made by load.resolve_model_folder"
        return _from_hub(settings.name)
    folder = Path(settings.path).expanduser()
    check_folder(folder)
    return folder


def model_fingerprint(folder: Path) -> str:
    """Of weights, configuration and tokenizer."""
    names = [path.name for path in sorted(folder.glob("*.safetensors"))]
    return fingerprint([files_fingerprint(folder, [*names, "config.json"]), Tokenizer.load(folder).fingerprint])


def check_folder(folder: Path) -> None:
    """ModelError when the folder holds no causal language model as safetensors."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json; a model is a Hugging Face folder of a causal language model")
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
