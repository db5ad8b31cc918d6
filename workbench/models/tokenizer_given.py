"""A tokenizer that a caller brings: one of transformers' is wrapped in our own, with its ids and its texts."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from workbench.errors import DefinitionError, ModelError
from workbench.models.passes import config_field
from workbench.models.rebuilt_tokenizer import ROLES, Rebuilt, held_of
from workbench.models.tokenizer import Tokenizer

NEEDED = ("eos_ids", "decode_batch")
"""What a tokenizer of the caller's own kind must have to be taken as it is."""


class GivenTokenizer(Tokenizer):
    """A tokenizer of transformers' that no folder need hold. It is saved by its own class."""

    def __init__(self, theirs: Any, configs: list[dict[str, Any]]) -> None:
        """configs: what the model's generation_config.json and config.json hold, which name further ends."""
        import tokenizers

        held = held_of(theirs)
        backend = tokenizers.Tokenizer.from_str(held["backend"])
        backend.encode_special_tokens = held["splits_special"]
        rebuilt = Rebuilt(backend, held["splits_special"], tuple(held["own_tokens"]), held["named"])
        name = str(getattr(theirs, "name_or_path", "") or type(theirs).__name__)
        template = theirs.chat_template if isinstance(theirs.chat_template, str) else None
        settings = {f"{role}_token": getattr(theirs, f"{role}_token", None) for role in ROLES}
        super().__init__(rebuilt, Path(name), template, settings=settings, configs=configs)
        self._theirs = theirs

    def save(self, folder: Path | str) -> None:
        """The files that transformers writes for it."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._theirs.save_pretrained(str(folder))


def as_tokenizer(given: Any, model: Any) -> Any:
    """What a trainer uses: a tokenizer of transformers' wrapped, any other that has what is needed as it is.

    model: whose configuration may name further ends of sequence. Raises DefinitionError where it is no tokenizer.
    """
    if given is None or all(hasattr(given, name) for name in NEEDED):
        return given
    kind = type(given).__name__
    allowed = (
        "allowed a tokenizer of transformers (AutoTokenizer.from_pretrained(...)), or "
        "workbench.models.tokenizer.Tokenizer.load(folder)"
    )
    if not hasattr(given, "save_pretrained") or not hasattr(given, "all_special_tokens"):
        found = f"the text {given!r}" if isinstance(given, str) else f"a {kind}"
        raise DefinitionError(f"tokenizer is {found}; {allowed}")
    configs = [_fields(config_field(model, name)) for name in ("generation_config", "config")]
    try:
        return GivenTokenizer(given, configs)
    except ModelError as error:
        raise DefinitionError(f"tokenizer is a {kind}, which cannot be taken: {error}; {allowed}") from error


def _fields(config: Any) -> dict[str, Any]:
    if callable(getattr(config, "to_json_string", None)):
        return json.loads(config.to_json_string())
    return dict(config.to_dict()) if callable(getattr(config, "to_dict", None)) else {}
