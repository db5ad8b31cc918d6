"""tokenizer.json as it stands, where transformers is known to take it so and need not be asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.models.rebuilt_tokenizer import ROLES, Rebuilt

if TYPE_CHECKING:
    import tokenizers

PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_ROLE_FIELDS = {f"{role}_token" for role in ROLES}
_MORE_FIELDS = ("additional_special_tokens", "extra_special_tokens")
# Fields of tokenizer_config.json with which transformers takes tokenizer.json as it is.
_PLAIN_FIELDS = {
    *_ROLE_FIELDS,
    *_MORE_FIELDS,
    *("chat_template", "clean_up_tokenization_spaces"),
    *("backend", "model_input_names", "model_max_length", "padding_side", "tokenizer_class", "truncation_side"),
}
_FLAGS = ("lstrip", "rstrip", "single_word")


def plain_tokenizer(
    backend: tokenizers.Tokenizer,
    folder: Path,
    settings: dict[str, Any],
    older: dict[str, Any],
    config: dict[str, Any],
) -> Rebuilt | None:
    """What a folder's tokenizer.json holds as transformers would run it; None where transformers must be asked.

    settings: tokenizer_config.json; older: special_tokens_map.json, which wins beside settings without
    added_tokens_decoder; config: config.json, whose model_type may overrule the class.
    """
    lists = [settings.get(name) or [] for name in _MORE_FIELDS]
    if not (
        settings.get("tokenizer_class") in PLAIN_CLASSES
        and set(settings) <= _PLAIN_FIELDS
        and set(older) <= _ROLE_FIELDS
        and all(isinstance(tokens, list) for tokens in lists)
        and config.get("model_type") in (None, "llama")
        and not (folder / "added_tokens.json").exists()
    ):
        return None
    named = {name: value for name, value in (settings | older).items() if name in _ROLE_FIELDS and value is not None}
    tokens = [*named.values(), *(token for more in lists for token in more)]
    texts = list(dict.fromkeys(token_text(token) for token in tokens))
    if not all(text and backend.token_to_id(text) is not None for text in texts):
        return None  # transformers adds such a token
    if any(isinstance(token, dict) and any(token.get(flag) for flag in _FLAGS) for token in tokens):
        return None
    _know(backend, texts)
    return Rebuilt(backend, named={name: token_text(token) for name, token in named.items()})


def token_text(token: Any) -> str:
    """The text of a token, which files write as such or in an object; empty where it is neither."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _know(backend: tokenizers.Tokenizer, texts: list[str]) -> None:
    """Have tokens of the vocabulary that the files name as special read as such in a text, as transformers does."""
    import tokenizers

    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    new = [text for text in texts if text not in known]
    backend.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in new])
