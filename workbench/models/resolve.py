"""Makes a folder that load_model reads of what a definition calls a model; what must be made is made once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from workbench.config import file_sha256, fingerprint
from workbench.disk import writing
from workbench.errors import StorageError
from workbench.inputs import Inputs
from workbench.models import adapters, gguf, vocabulary
from workbench.models.chat_templates import template_file, template_identity
from workbench.models.folder import (
    ADDED_TOKENS_VERSION,
    adapter_base,
    adapter_fingerprint,
    check_folder,
    find_gguf,
    find_model_folder,
    is_adapter,
    model_fingerprint,
)
from workbench.models.give_template import give_template
from workbench.models.presets import make_preset
from workbench.models.settings import ModelSettings
from workbench.models.smollm2 import SMOLLM2_NAME, convert_smollm2
from workbench.tracking.reader import read_json


def resolve_model_folder(settings: ModelSettings, cache: Path) -> Path:
    """The folder of the model named; presets, conversions and additions are made once under `cache`. Raises
    ModelError."""
    folder = _without_template(settings, cache)
    return folder if settings.chat_template is None else _with_template(folder, settings.chat_template, cache)


def _without_template(settings: ModelSettings, cache: Path) -> Path:
    folder = _named_folder(settings, cache)
    if settings.adapter is not None:
        folder = _with_adapter(folder, Path(settings.adapter).expanduser(), cache)
    if settings.add_tokens:
        inputs = _inputs(folder)
        key = fingerprint([model_fingerprint(folder), settings.add_tokens, ADDED_TOKENS_VERSION])
        return _make_once(
            cache, f"tokens-{key}", lambda partial: vocabulary.add_tokens(folder, partial, settings.add_tokens), inputs
        )
    return folder


def _with_template(source: Path, given: str, cache: Path) -> Path:
    """A folder with the template, and links to the source's weights."""
    file = template_file(given)
    inputs = _inputs(source) | Inputs([] if file is None else [file])
    key = fingerprint([model_fingerprint(source), template_identity(given), str(source.resolve())])
    return _make_once(cache, f"chat-{key}", lambda partial: give_template(source, partial, given), inputs)


def _named_folder(settings: ModelSettings, cache: Path) -> Path:
    preset = settings.preset
    if preset is not None:
        return _make_once(
            cache, f"{preset}-seed{settings.seed}", lambda partial: make_preset(preset, partial, settings.seed)
        )
    if settings.name is not None and settings.name.lower() == SMOLLM2_NAME:
        return _make_once(cache, SMOLLM2_NAME, convert_smollm2)
    file = find_gguf(settings)
    if file is not None:
        inputs = Inputs([file])
        key = fingerprint([file_sha256(file), gguf.VERSION])
        return _make_once(cache, f"gguf-{key}", lambda partial: gguf.convert_gguf(file, partial), inputs)
    if settings.path is not None and is_adapter(folder := Path(settings.path).expanduser()):
        check_folder(folder)
        return _with_adapter(_named_folder(ModelSettings(path=str(adapter_base(folder))), cache), folder, cache)
    return find_model_folder(settings)


def _with_adapter(base: Path, adapter: Path, cache: Path) -> Path:
    """A folder that names its base and holds the adapter and all else that a model's folder does: it costs no disk."""
    inputs = _inputs(base, adapter)
    # The folder holds the base's path: a base that moved is laid under anew.
    key = fingerprint([model_fingerprint(base), adapter_fingerprint(adapter), str(base.resolve())])
    return _make_once(cache, f"adapted-{key}", lambda partial: adapters.lay_over(base, adapter, partial), inputs)


def _inputs(*folders: Path) -> Inputs:
    return Inputs(path for folder in folders for path in sorted(folder.glob("*")) if path.is_file())


def _make_once(cache: Path, label: str, make: Callable[[Path], None], inputs: Inputs | None = None) -> Path:
    """inputs: what it is made of, as it stood before the label was taken of it."""
    folder = cache / f"model-v1-{label}"
    checksums = folder.with_name(f"{folder.name}.json")
    if not _is_whole(folder, checksums):
        # Runs side by side may make the same model: each its own, and the first to finish is kept.
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        try:
            with writing(folder):
                shutil.rmtree(partial, ignore_errors=True)
                with (inputs or Inputs(())).unchanged():
                    make(partial)
                _publish(partial, folder, checksums)
        except StorageError:
            if not _is_whole(folder, checksums):
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _publish(partial: Path, folder: Path, checksums: Path) -> None:
    """The checksums before what they are of: where nothing follows them, nothing matches them."""
    if _is_whole(folder, checksums):
        return
    written = checksums.with_name(f"{checksums.name}.{os.getpid()}.partial")
    try:
        written.write_text(json.dumps(_checksums(partial), indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        written.replace(checksums)
        partial.rename(folder)
    finally:
        written.unlink(missing_ok=True)


def _is_whole(folder: Path, checksums: Path) -> bool:
    """Whether the folder holds what was made, every bit of it."""
    return folder.is_dir() and _checksums(folder) == read_json(checksums)


def _checksums(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
