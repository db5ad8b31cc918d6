"""What is known of a model that settings name, before it is made or loaded; nothing here loads torch."""

from __future__ import annotations

from pathlib import Path

from workbench.models.folder import (
    adapter_base,
    adapter_fingerprint,
    find_gguf,
    find_model_folder,
    is_adapter,
    refuse_classifier,
)
from workbench.models.presets import preset_tokenizer
from workbench.models.settings import ModelSettings
from workbench.models.tokenizer import Tokenizer


def check_named(settings: ModelSettings) -> None:
    """Raises ModelError where a path leads to no language model, or to no adapter. Names of the hub are asked for when
    they are loaded."""
    if settings.path is not None and find_gguf(settings) is None:
        refuse_classifier(find_model_folder(settings))
    if settings.adapter is not None:
        adapter_fingerprint(Path(settings.adapter).expanduser())


def tokens_of(settings: ModelSettings) -> dict[str, int] | None:
    """Ids by token; None where they are known only when the model is made: that of a hub name or of a GGUF file. Raises
    ModelError."""
    if settings.preset is not None:
        tokenizer = preset_tokenizer(settings.preset)
        tokenizer.add_special_tokens(settings.add_tokens)
        return tokenizer.get_vocab(with_added_tokens=True)
    if settings.path is None or find_gguf(settings) is not None:
        return None
    folder = find_model_folder(settings)
    while is_adapter(folder) and not (folder / "tokenizer.json").is_file():
        folder = adapter_base(folder)
    return Tokenizer.load(folder).with_special_tokens(settings.add_tokens).tokens
