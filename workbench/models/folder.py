"""Which folder a model is, and what identifies it; nothing here loads torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from workbench.config import file_sha256, files_fingerprint, fingerprint
from workbench.errors import ModelError
from workbench.files import check_file
from workbench.models import gguf
from workbench.models.chat_templates import template_identity
from workbench.models.settings import ModelSettings
from workbench.models.smollm2 import SMOLLM2_NAME
from workbench.models.tokenizer import Tokenizer, read_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BASE_FILE = "base.json"
"""The file beside an adapter that is a model of its own. It holds the base's folder, as seen from here and from the
root, and its fingerprint."""
SCORES_END = "scores_end"
"""The field of config.json by which our own reward models say that they read a text with the token that ends it."""
ADDED_TOKENS_VERSION = 1
"""Raised by hand where vocabulary.add_tokens makes other weights."""
LOADING_VERSION = 2
"""Raised by hand where a folder that was not made here is read as another model than before."""
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


def find_model_folder(settings: ModelSettings) -> Path:
    """The folder of a model given by path or hub name, checked. Raises ModelError."""
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
    return os.path.isfile(folder / ADAPTER_CONFIG) and not list(folder.glob("model*.safetensors"))


def weights_file(folder: Path) -> Path:
    """The weights that save_model writes: of a whole model, or of an adapter alone."""
    return folder / (ADAPTER_WEIGHTS if is_adapter(folder) else WEIGHTS)


def find_weights(folder: Path) -> dict[str, list[str] | None]:
    """The files of a whole model's weights that transformers would read, and the weights that its index places in each
    (None without one). Raises ModelError where they are not all there, or where shards lie about that are not read."""
    if os.path.exists(folder / WEIGHTS):
        found: dict[str, list[str] | None] = {WEIGHTS: None}
    else:
        found = dict(_indexed(folder))
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    stale = [name for name in files if _SHARD.fullmatch(name) and name not in found]
    if stale and not found:
        raise ModelError(f"{folder}: {stale[0]} is one of several files, and {INDEX} is not there; copy it too")
    if stale:
        what = WEIGHTS if WEIGHTS in found else INDEX
        raise ModelError(f"{folder}: {stale[0]} is of another copy of the weights than {what}; remove one of the two")
    if not found:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        told = f"only {pickled[0]}, a pickle, which is never loaded" if pickled else "no weights"
        told = f"no {WEIGHTS}, but {files[0]}" if files else told
        raise ModelError(f"{folder}: {told}; save it with model.save_pretrained(folder, safe_serialization=True)")
    for name in found:
        check_file(folder / name)
    return found


def _indexed(folder: Path) -> dict[str, list[str]]:
    """Weights by the shard that the index names for them; nothing where there is no index."""
    places = read_json(folder / INDEX).get("weight_map", {})
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{folder / INDEX}: weight_map does not name a file for each weight; copy it again")
    shards: dict[str, list[str]] = {}
    for weight, shard in places.items():
        if Path(shard).name != shard or not os.path.exists(folder / shard):
            raise ModelError(f"{folder / INDEX}: {weight} is said to be in {shard}, which is not there; copy it too")
        shards.setdefault(shard, []).append(weight)
    return shards


def model_fingerprint(folder: Path) -> str:
    """The fingerprint of weights, configuration and tokenizer; an adapter's base counts with it. Raises ModelError."""
    check_folder(folder)
    names = [ADAPTER_WEIGHTS] if is_adapter(folder) else sorted(find_weights(folder))
    names += [INDEX] if names != [WEIGHTS] and os.path.exists(folder / INDEX) else []
    names += ["config.json"] if os.path.exists(folder / "config.json") else []  # peft's own adapters have none
    parts = [files_fingerprint(folder, names), Tokenizer.load(folder).fingerprint]
    if is_adapter(folder):
        parts += [adapter_fingerprint(folder), str(read_json(folder / BASE_FILE).get("model"))]
    return fingerprint(parts)


def settings_identity(settings: ModelSettings) -> Any:
    """The identity of the model that settings name, before anything is converted. That of a preset is its name, its
    seed and its maker's version."""
    identity = _plain_identity(settings)
    if settings.adapter is not None:
        identity = {"model": identity, "adapter": adapter_fingerprint(Path(settings.adapter).expanduser())}
    if settings.add_tokens:
        identity = {"model": identity, "add_tokens": settings.add_tokens, "version": ADDED_TOKENS_VERSION}
    if settings.chat_template is not None:
        identity = {"model": identity, "chat_template": template_identity(settings.chat_template)}
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
        check_folder(folder)
        base = _plain_identity(ModelSettings(path=str(adapter_base(folder))))
        return {"model": base, "adapter": adapter_fingerprint(folder)}
    return fingerprint([model_fingerprint(find_model_folder(settings)), LOADING_VERSION])


def adapter_fingerprint(folder: Path) -> str:
    """The fingerprint of an adapter's weights and settings, whatever its base. Raises ModelError."""
    if not (folder / ADAPTER_CONFIG).is_file() or not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{folder}: no adapter; a peft folder holds {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}")
    return files_fingerprint(folder, [ADAPTER_CONFIG, ADAPTER_WEIGHTS])


def adapter_base(folder: Path) -> Path:
    """The folder of the model that an adapter stands on: as written beside it, else as peft names it. Raises ModelError
    where it is not here, or is no longer the one that the adapter was trained on."""
    written = read_json(folder / BASE_FILE)
    bases = _named_bases(folder)
    if not bases:
        name = written.get("folder") or read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
        raise ModelError(
            f"{folder}: the adapter's base is {name or 'not named'}, which is no model folder here; "
            "name it: model: {path: base, adapter: this folder}"
        )
    for base in bases:  # peft names one without its fingerprint
        if not written or model_fingerprint(base) == written.get("model"):
            return base
    raise ModelError(f"{folder}: its base {bases[0]} has changed since the adapter was trained; train the adapter anew")


def _named_bases(folder: Path) -> list[Path]:
    """The model folders that an adapter may stand on: seen from itself, so that both may be moved together, and by the
    whole path."""
    written = read_json(folder / BASE_FILE)
    here, there = written.get("from_here"), written.get("folder")
    if not written:
        there = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    named = [Path(os.path.normpath(folder.resolve() / here))] if isinstance(here, str) else []
    named += [Path(there)] if isinstance(there, str) and there else []
    return [base for base in named if os.path.isfile(base / "config.json") or is_adapter(base)]


def _refuse_circle(folder: Path, above: tuple[Path, ...] = ()) -> None:
    """Raises ModelError where an adapter's bases lead back to one of themselves."""
    place = folder.resolve()
    if place in above:
        raise ModelError(f"{above[0]}: an adapter whose base leads back to {folder}; name a whole model as its base")
    for base in {base.resolve() for base in _named_bases(folder)} if is_adapter(folder) else ():
        _refuse_circle(base, (*above, place))


def write_base(folder: Path, base: Path) -> None:
    """Note beside an adapter which model it stands on."""
    here = os.path.relpath(base.resolve(), folder.resolve())
    note = {"folder": str(base.resolve()), "from_here": here, "model": model_fingerprint(base)}
    (folder / BASE_FILE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def check_folder(folder: Path) -> None:
    """Raises ModelError when the folder holds no causal language model as safetensors, whole or as an adapter on its
    base."""
    if is_adapter(folder):
        adapter_fingerprint(folder)
        _refuse_circle(folder)
        return
    if not os.path.exists(folder / "config.json"):
        found = "no config.json" if folder.is_dir() else "no such file or folder"
        raise ModelError(f"{folder}: {found}; a model is a Hugging Face folder of a causal language model")
    check_file(folder / "config.json")
    find_weights(folder)
    if os.path.exists(folder / ADAPTER_CONFIG):  # transformers would load the adapter's base, and not these weights
        raise ModelError(
            f"{folder}: it holds a whole model, and an adapter of another ({ADAPTER_CONFIG}); move the adapter to a "
            "folder of its own, or remove it where it is merged"
        )


def refuse_classifier(folder: Path) -> None:
    """Raises ModelError where the folder's model scores texts, and is no language model."""
    named = [name for name in read_json(folder / "config.json").get("architectures") or [] if isinstance(name, str)]
    if any(name.endswith("ForSequenceClassification") for name in named):
        raise ModelError(
            f"{folder}: a {named[0]}, which scores texts and completes none; name a causal language model (as a reward "
            "it is {model: this folder})"
        )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]))
    except Exception as error:  # the library raises many kinds, offline ones among them
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model.name {name}: the hub cannot give it ({first}); name a local folder with path"
        ) from error
