"""Tokenizers with and without a beginning-of-sequence token, several ends and a chat template."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

CHARACTERS = "\n abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:?!'<>|_"
SPECIAL = ("<pad>", "<eos>", "<bos>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
    "+ '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def chatml() -> str:
    """The template that Qwen and SmolLM2 use, without tools and default system message."""
    return CHATML


@pytest.fixture(scope="session")
def make_tokenizer(tmp_path_factory) -> Callable[..., Any]:
    """make(template=None, bos=False, eos=("<eos>",), pad="<pad>") -> a Tokenizer with a token a character."""

    def make(
        template: str | None = None, *, bos: bool = False, eos: Sequence[str] = ("<eos>",), pad: str = "<pad>"
    ) -> Any:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

        from workbench.models.tokenizer import Tokenizer as OwnTokenizer

        folder: Path = tmp_path_factory.mktemp("tokenizer")
        ids = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
        backend = Tokenizer(models.WordLevel(ids, unk_token="<none>"))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        backend.decoder = decoders.Fuse()
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": pad}
        settings |= {"eos_token": eos[0]} if eos else {}
        if bos:
            settings["bos_token"] = "<bos>"
            backend.post_processor = processors.TemplateProcessing(
                single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])]
            )
        backend.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [ids[token] for token in eos]}))
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return OwnTokenizer.load(folder)

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer):
    """No beginning of sequence, one end, no template."""
    return make_tokenizer()
