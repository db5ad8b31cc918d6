"""A light reader of a Hugging Face folder's tokenizer, by the tokenizers library alone (transformers takes seconds)."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.config import fingerprint
from workbench.decimals import read_json_text
from workbench.errors import ModelError
from workbench.files import check_file, read_file
from workbench.models.plain_tokenizer import plain_tokenizer, token_text
from workbench.models.rebuilt_tokenizer import Rebuilt, rebuild

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
)


class Tokenizer:
    """Text to token ids and back, with the ids and the chat template that the folder's files name."""

    def __init__(
        self,
        rebuilt: Rebuilt,
        folder: Path,
        template: str | None,
        *,
        settings: dict[str, Any] | None = None,
        configs: list[dict[str, Any]] | None = None,
    ) -> None:
        """settings, configs: what tokenizer_config.json, and generation_config.json and config.json, hold; None: those
        of the folder."""
        backend = rebuilt.backend
        # Some published files carry truncation or padding, which would silently cut training text.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._rebuilt = rebuilt
        self._folder = folder
        self.named = rebuilt.named
        self.chat_template = template
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        # One above the highest: the ids of some files have gaps.
        self.num_ids: int = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        settings = _settings(folder) if settings is None else settings
        added = backend.get_added_tokens_decoder()
        self.added_ids: frozenset[int] = frozenset(added)
        self.special_ids: frozenset[int] = frozenset(index for index, token in added.items() if token.special)
        if configs is None:
            configs = [read_json(folder / name) for name in ("generation_config.json", "config.json")]
        rows = configs[1].get("vocab_size")
        self._num_rows: int = rows if isinstance(rows, int) else self.num_ids
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(self._ids("eos", settings, configs)))
        self.bos_id: int | None = next(iter(self._ids("bos", settings, configs)), None)
        # The value never matters (masks are built from lengths), so 0 serves a model that names neither pad nor EOS.
        self.pad_id: int = next(iter(self._ids("pad", settings, configs)), self.eos_ids[0] if self.eos_ids else 0)
        # What the tokenizer itself puts before a text: a beginning-of-sequence token, where the model was trained so.
        self.prefix_ids: tuple[int, ...] = _prefix_ids(backend, self.bos_id)

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """The tokenizer that transformers would run for a folder: tokenizer.json's, unless its class is built anew.
        Raises ModelError."""
        import tokenizers

        folder = Path(folder)
        path, config = folder / "tokenizer.json", read_json(folder / "config.json")
        if os.path.exists(path):
            check_file(path)
            try:
                backend = tokenizers.Tokenizer.from_file(str(path))
            except Exception as error:  # the library raises bare Exception
                raise ModelError(f"{path}: not a readable tokenizer: {_first_line(error)}") from error
            _refuse_damaged(backend, path)
            settings, older = (
                read_json(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json")
            )
            plain = plain_tokenizer(backend, folder, settings, older, config)
            if plain is not None:
                return cls(plain, folder, read_chat_template(folder))
        return cls(rebuild(folder, config), folder, read_chat_template(folder))

    def _ids(self, role: str, settings: dict[str, Any], configs: list[dict[str, Any]]) -> list[int]:
        """Ids that have a role ("eos"): of the token that transformers names so, then each config's, then an older
        file's."""
        texts = self.named.get(f"{role}_token", ""), token_text(settings.get(f"{role}_token"))
        # transformers adds a token that the vocabulary lacks, for which the model need not have a row.
        first, last = (i if i is not None and i < self._num_rows else None for i in map(self.token_id, texts))
        found: list[Any] = [first]
        for config in configs:
            value = config.get(f"{role}_token_id")
            found.extend(value if isinstance(value, list) else [value])
        return [index for index in (*found, last) if isinstance(index, int) and index >= 0]

    @property
    def name(self) -> str:
        """What messages call the tokenizer."""
        return str(self._folder)

    def begun(self, ids: list[int]) -> list[int]:
        """The ids of a text with what the tokenizer itself puts before it, unless the text begins with it."""
        prefix = list(self.prefix_ids)
        return ids if ids[: len(prefix)] == prefix else prefix + ids

    def ended(self, ids: list[int]) -> list[int]:
        """The ids of a text with an end of sequence, unless the text ends with one."""
        return ids if ids and ids[-1] in self.eos_ids else [*ids, *self.eos_ids[:1]]

    def first_ids(self, ids: Sequence[int]) -> int:
        """How many of a text's first ids are its beginning of sequence, which truncation keeps."""
        prefix = self.prefix_ids or (() if self.bos_id is None else (self.bos_id,))
        return len(prefix) if prefix and tuple(ids[: len(prefix)]) == prefix else 0

    def with_ends(self, ends: Iterable[int]) -> Tokenizer:
        """Returns this tokenizer with more tokens that end a sequence."""
        other = copy.copy(self)
        other.eos_ids = tuple(dict.fromkeys((*self.eos_ids, *ends)))
        return other

    def encode(self, text: str) -> list[int]:
        """Token ids of text, no special tokens added (those written out in text, as a chat template does, are read)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """encode for many texts at once. Raises ModelError where a character has no token."""
        try:
            rows = [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]
        except Exception as error:  # the library raises bare Exception
            raise ModelError(self._unknown_text(texts, error)) from error
        for token in self._rebuilt.own_tokens:
            if any(token in text for text in texts):
                raise ModelError(
                    f"{self._folder}: a text has {token!r}, which transformers reads by code of this class"
                )
        if self.num_ids > self._num_rows:
            self._refuse_ids_without_rows(rows)
        return rows

    def _refuse_ids_without_rows(self, rows: list[list[int]]) -> None:
        """Some models have fewer rows than their tokenizer has tokens; it matters where such a token is used."""
        beyond = max((index for row in rows for index in row), default=0)
        if beyond >= self._num_rows:
            token = self._backend.id_to_token(beyond)
            raise ModelError(
                f"{self._folder}: the text has the token {token!r} (id {beyond}), but the model has only "
                f"{self._num_rows} rows: it is another model's tokenizer, or name the token in model.add_tokens"
            )

    def _unknown_text(self, texts: list[str], error: Exception) -> str:
        for text in texts:
            for character in text:
                try:
                    self._backend.encode(character, add_special_tokens=False)
                except Exception:
                    return (
                        f"{self._folder}: the tokenizer has no token for {character!r} in {text[:60]!r}; "
                        "remove it from the data or use a model whose vocabulary holds it"
                    )
        return f"{self._folder}: the tokenizer fails: {_first_line(error)}"

    def encode_with_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """encode, and each token's (start, end) in the text as the library tells it: where a normaliser changes the
        text they may be wrong."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def decode_batch(self, rows: list[list[int]], skip_special_tokens: bool = True) -> list[str]:
        """decode for many rows at once."""
        return self._backend.decode_batch(rows, skip_special_tokens=skip_special_tokens)

    @property
    def tokens(self) -> dict[str, int]:
        """Ids by token, added ones among them."""
        return self._backend.get_vocab(with_added_tokens=True)

    def token_id(self, token: str) -> int | None:
        """Id of one token by its text, None where the vocabulary lacks it."""
        return self._backend.token_to_id(token)

    def has_token(self, token: str) -> bool:
        """Whether the text is one token wherever it stands."""
        index = self.token_id(token)
        return index is not None and index in self.added_ids

    def names(self, role: str) -> bool:
        """Whether its own files name the token of a role ("eos"): what transformers gives a chat template as such."""
        return self.token_id(self.named.get(f"{role}_token", "")) is not None

    def token_text(self, index: int) -> str | None:
        """A token's own text by its id, special ones included."""
        return self._backend.id_to_token(index)

    def with_special_tokens(self, tokens: Sequence[str]) -> Tokenizer:
        """Returns this tokenizer with the tokens as special ones; tokens that it has keep their ids."""
        import tokenizers

        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        new = [token for token in tokens if backend.token_to_id(token) is None]
        backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in new])
        backend.encode_special_tokens = self._rebuilt.splits_special
        return Tokenizer(dataclasses.replace(self._rebuilt, backend=backend), self._folder, self.chat_template)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of everything that decides ids and rendered chats."""
        return fingerprint(
            {
                "tokenizer": self._backend.to_str(),
                "bos": self.bos_id,
                "eos": list(self.eos_ids),
                "pad": self.pad_id,
                "chat_template": self.chat_template,
                **self._named_otherwise(),
                **self._rebuilt.identity,
            }
        )

    def _named_otherwise(self) -> dict[str, Any]:
        """The tokens that the chat template may write and that the ids do not tell; empty where there are none."""
        told = {"bos_token": self.bos_id, "eos_token": next(iter(self.eos_ids), None), "pad_token": self.pad_id}
        asked = {name for name in (*told, *self.named) if name in (self.chat_template or "")}
        ids = {name: self.token_id(self.named.get(name, "")) for name in sorted(asked)}
        other = {name: self.named.get(name) for name, index in ids.items() if index != told.get(name)}
        return {"named": other} if other else {}

    def save(self, folder: Path | str) -> None:
        """Copies the tokenizer's files as they were (tokenizer.json is written where there was none)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            if (self._folder / name).is_file():
                shutil.copyfile(self._folder / name, folder / name)
        if not (folder / "tokenizer.json").is_file():
            self.save_backend(folder)

    def save_backend(self, folder: Path | str) -> None:
        """tokenizer.json alone, as it is now."""
        self._backend.save(str(Path(folder) / "tokenizer.json"))


def _settings(folder: Path) -> dict[str, Any]:
    """The settings of tokenizer_config.json; what it does not say may stand in an older file beside it."""
    named = {name: value for name, value in read_json(folder / "tokenizer_config.json").items() if value is not None}
    return read_json(folder / "special_tokens_map.json") | named


def _refuse_damaged(backend: tokenizers.Tokenizer, path: Path) -> None:
    """Raises ModelError for what the library reads and then fails of, or takes all memory for."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    highest = max(vocabulary.values(), default=0)
    if highest > 16 * len(vocabulary) + (1 << 20):
        raise ModelError(f"{path}: an id of {highest:,} in a vocabulary of {len(vocabulary):,} tokens; copy it again")
    if backend.post_processor is None:
        return
    state = json.loads(backend.post_processor.__getstate__())
    for part in (state, *(state.get("processors") or ())):
        known = part.get("special_tokens") or {}
        for piece in (*(part.get("single") or ()), *(part.get("pair") or ())):
            token = piece["SpecialToken"]["id"] if isinstance(piece, dict) and "SpecialToken" in piece else None
            if token is not None and token not in known:
                raise ModelError(f"{path}: post_processor adds {token!r}, which its special_tokens lack; copy it again")


def _prefix_ids(backend: tokenizers.Tokenizer, bos_id: int | None) -> tuple[int, ...]:
    for text in ("", "a", "0"):
        try:
            encoding = backend.encode(text, add_special_tokens=True)
        except Exception:  # a tokenizer without a token for the text
            continue
        mask = encoding.special_tokens_mask
        if 0 in mask:
            return tuple(encoding.ids[: mask.index(0)])
        if not text and not encoding.ids:
            return ()
    # The empty text alone does not show what is put before a text and what behind it.
    try:
        special = backend.encode("", add_special_tokens=True).ids
    except Exception:
        return ()
    return (bos_id,) if bos_id is not None and special[:1] == [bos_id] else ()


def read_chat_template(folder: Path) -> str | None:
    """The default chat template: a file of its own, or a field of tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    if os.path.exists(path):
        try:
            return read_file(path).decode()
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: not readable as text: {error}") from error
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is absent. Raises ModelError."""
    if not os.path.exists(path):
        return {}
    try:
        value = read_json_text(read_file(path))
    except RecursionError as error:
        raise ModelError(f"{path}: not readable as JSON: nested too deep") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON object is needed, found {type(value).__name__}")
    return value


def _first_line(error: Exception) -> str:
    """An error's first line: third parties' messages run over many."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
