"""The tokenizer that transformers makes of a folder's files: by its class, it is often another than tokenizer.json's.

LlamaTokenizer, for one, is built anew from the vocabulary, and sets no space after a special token whatever the file
says. What transformers made is kept in the user's cache folder, by the contents of the files and the versions, so that
transformers is imported once for a tokenizer.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.config import files_fingerprint, fingerprint
from workbench.errors import ModelError
from workbench.files import read_file

if TYPE_CHECKING:
    import tokenizers

VERSION = 2
"""Version of what is kept: raise it where the same files would give another backend."""

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_CONFIG_FIELDS = ("model_type", "model_name", "tokenizer_class", "transformers_version")
_SUFFIXES = (".json", ".jinja", ".model", ".spm", ".txt")
_OTHER_FILES = ("config.json", "generation_config.json")
_PROBE = (
    *("", " ", "a", " a", "  a", "a ", "a  b", "a\nb", "\n", "\n\na", "\ta", "Hello, World!", "don't", "a\r\nb"),
    *(
        "2+2=4",
        "1234567 89",
        "3.14",
        "Straße café e\u0301",
        "日本語 テキスト",
        "🙂👍🏽",
        "\u00a0x\u200b",
        "ﬁ ½ Ⅷ",
        "▁a",
        "<unk>",
    ),
)


@dataclass(frozen=True)
class Rebuilt:
    """A backend of the tokenizers library, and what transformers does around it."""

    backend: tokenizers.Tokenizer
    splits_special: bool = False
    """Whether special tokens written out in a text are read as plain text."""
    own_tokens: tuple[str, ...] = ()
    """Tokens that the class reads by code of its own, such as the place to fill of CodeLlama."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Tokens by the names that transformers gives a chat template them under: {"eos_token": "</s>"}."""

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of what the backend's own JSON does not say; empty where the JSON says all."""
        told = {"splits_special": self.splits_special, "own_tokens": list(self.own_tokens)}
        return {name: value for name, value in told.items() if value}


def rebuild(folder: Path, config: dict[str, Any]) -> Rebuilt:
    """What AutoTokenizer would run for the folder, from the cache where it was made before. Raises ModelError."""
    import tokenizers

    try:
        names = sorted(p.name for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    except OSError as error:
        raise ModelError(_refusal(folder, False, error)) from error
    names = [name for name in names if name not in _OTHER_FILES and not name.endswith(".index.json")]
    # Only what decides a tokenizer is kept of the model's configuration: transformers may be unable to read the rest.
    config = {name: config[name] for name in _CONFIG_FIELDS if name in config}
    versions = [importlib.metadata.version(name) for name in ("transformers", "tokenizers")]
    key = fingerprint([VERSION, versions, config, files_fingerprint(folder, names)])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    file = cache / "workbench" / "tokenizers" / f"{key}.json"
    held = _read(file, key)
    if held is None:
        held = _make(folder, names, config)
        _write(file, key, held)
    if held["backend"] is None:
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        backend = tokenizers.Tokenizer.from_str(held["backend"])
    backend.encode_special_tokens = held["splits_special"]
    return Rebuilt(backend, held["splits_special"], tuple(held["own_tokens"]), held["named"])


def _make(folder: Path, names: list[str], config: dict[str, Any]) -> dict[str, Any]:
    import tokenizers
    import transformers

    transformers.logging.set_verbosity_error()
    try:
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                (Path(scratch) / name).symlink_to((folder / name).resolve())
            (Path(scratch) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            theirs = transformers.AutoTokenizer.from_pretrained(scratch, trust_remote_code=False, local_files_only=True)
        held = held_of(theirs)
    except Exception as error:  # transformers raises errors of many kinds for files that it cannot read
        raise ModelError(_refusal(folder, "tokenizer.json" in names, error)) from error
    if "tokenizer.json" in names:
        plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        plain.no_truncation()
        plain.no_padding()
        if plain.to_str() == held["backend"]:
            held["backend"] = None  # the file itself serves: vocabularies are large
    return held


def held_of(theirs: Any) -> dict[str, Any]:
    """What is kept of a tokenizer of transformers': its backend as JSON, and what its class does around it. Raises
    ModelError where its class encodes by code of its own."""
    import tokenizers

    backend = getattr(theirs, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{type(theirs).__name__} does not run by the tokenizers library")
    ours = tokenizers.Tokenizer.from_str(backend.to_str())
    ours.no_truncation()
    ours.no_padding()
    held: dict[str, Any] = {"backend": ours.to_str(), "splits_special": bool(theirs.split_special_tokens)}
    ours.encode_special_tokens = held["splits_special"]
    for text in _PROBE:
        if not _same(ours, theirs, text):
            raise ModelError(f"{type(theirs).__name__} encodes {text!r} otherwise than the tokenizers library")
    held["named"] = theirs.special_tokens_map
    held["own_tokens"] = [
        token
        for token in dict.fromkeys(theirs.all_special_tokens)
        if not all(_same(ours, theirs, text) for text in (token, f"a{token}b", f"a {token} b"))
    ]
    return held


def _same(ours: tokenizers.Tokenizer, theirs: Any, text: str) -> bool:
    """Whether the class changes nothing by code of its own. A text that has no tokens has none in both."""
    rows: list[list[int] | None] = []
    for encode in (
        lambda: theirs.encode(text, add_special_tokens=False),
        lambda: ours.encode(text, add_special_tokens=False).ids,
    ):
        try:
            rows.append(encode())
        except Exception:  # the libraries raise errors of many kinds
            rows.append(None)
    return rows[0] == rows[1]


def _refusal(folder: Path, has_file: bool, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if not has_file:
        return (
            f"{folder}: no tokenizer.json, and transformers cannot build one from the other files: {reason}; "
            "save the tokenizer with AutoTokenizer(...).save_pretrained(folder)"
        )
    return (
        f"{folder}: transformers cannot build the tokenizer that these files name: {reason}; to take tokenizer.json as "
        "it stands, set tokenizer_class to TokenizersBackend in tokenizer_config.json"
    )


def _read(file: Path, key: str) -> dict[str, Any] | None:
    """Reads what is kept in the file; None where nothing is, or the file is damaged."""
    try:
        held = json.loads(read_file(file))
        return held["made"] if held["check"] == fingerprint([key, held["made"]]) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(file: Path, key: str, made: dict[str, Any]) -> None:
    held = {"made": made, "check": fingerprint([key, made])}
    with contextlib.suppress(OSError):  # a read-only home only means that transformers is asked again
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(held) + "\n", encoding="utf-8")
        partial.rename(file)
