"""The ids are those of the tokenizer that transformers makes of a folder, whatever its class and settings."""

from __future__ import annotations

import json
import sys

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from workbench.data.chat import render_chat
from workbench.errors import ModelError
from workbench.models.plain_tokenizer import plain_tokenizer
from workbench.models.tokenizer import Tokenizer

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
NAMED = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TEXTS = ["Hello world, 2+2=4. The fox doesn't jump over 12345 dogs.", "café a b c"]
PROBE = (
    *(
        "",
        "hello",
        " hello",
        "hello ",
        "  hello  world",
        "a\nb",
        "\n\na",
        "<s>hello",
        "<s> hello",
        "a</s>b",
        "a </s> b",
    ),
    *("café 日本 🙂", "cafe\u0301", "12345 3.14", "don't"),
)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def sentencepiece():
    library = Library(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=tokens, initial_alphabet=["▁"], show_progress=False)
    library.train_from_iterator(TEXTS, trainer)
    state = json.loads(library.to_str())
    state["added_tokens"] = state["added_tokens"][: len(SPECIAL)]
    library = Library.from_str(json.dumps(state))
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    library.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return library


def byte_level():
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(TEXTS, trainer)
    return library


def unigram():
    library = Library(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    library.train_from_iterator(TEXTS, trainer)
    return library


def save(folder, library, config=None, **settings):
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(NAMED | settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 9999} | (config or {})))
    return folder


CASES = [
    (sentencepiece, "LlamaTokenizer", "llama", {}),
    (sentencepiece, "LlamaTokenizerFast", "llama", {"legacy": False, "add_prefix_space": False}),
    (sentencepiece, "LlamaTokenizer", "llama", {"split_special_tokens": True}),
    (sentencepiece, "LlamaTokenizer", "llama", {"add_eos_token": True, "add_bos_token": False}),
    (sentencepiece, "LlamaTokenizer", "mistral", {}),
    (sentencepiece, None, "llama", {}),
    (sentencepiece, "GemmaTokenizer", "gemma", {}),
    (sentencepiece, "CodeLlamaTokenizer", "llama", {}),
    (sentencepiece, "PreTrainedTokenizerFast", "llama", {"add_bos_token": True}),
    (sentencepiece, "PreTrainedTokenizerFast", "llama", {}),
    (byte_level, "Qwen2Tokenizer", "qwen2", {}),
    (byte_level, "PreTrainedTokenizerFast", "qwen2", {}),
    (byte_level, "LlamaTokenizerFast", "llama", {}),
    (byte_level, "GPT2Tokenizer", "gpt2", {"add_prefix_space": True}),
    (byte_level, "CohereTokenizer", "cohere", {}),
    (unigram, "T5Tokenizer", "t5", {}),
    (unigram, "XLNetTokenizer", "xlnet", {}),
]


@pytest.mark.parametrize(("make", "name", "family", "settings"), CASES)
def test_ids_are_those_of_transformers(tmp_path, make, name, family, settings):
    from transformers import AutoTokenizer

    settings = settings | ({"tokenizer_class": name} if name else {})
    folder = save(tmp_path, make(), {"model_type": family}, **settings)
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    for text in PROBE:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False), text
        assert list(ours.prefix_ids) == theirs.encode(text)[: len(ours.prefix_ids)], text
    again = Tokenizer.load(folder)  # from what was kept
    assert [again.encode(text) for text in PROBE] == [ours.encode(text) for text in PROBE]
    assert again.fingerprint == ours.fingerprint


def test_the_fingerprint_follows_the_tokenizer_that_is_used(tmp_path):
    prints = set()
    for settings in ({}, {"add_prefix_space": False}, {"split_special_tokens": True}):
        folder = save(tmp_path, sentencepiece(), tokenizer_class="LlamaTokenizer", **settings)
        prints.add(Tokenizer.load(folder).fingerprint)
    assert len(prints) == 3


def test_a_token_added_to_a_rebuilt_tokenizer_is_the_same_after_saving(tmp_path):
    tokenizer = Tokenizer.load(save(tmp_path, sentencepiece(), tokenizer_class="LlamaTokenizer"))
    extended = tokenizer.with_special_tokens(["<new>"])
    extended.save_backend(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.token_id("<new>") == tokenizer.num_ids
    for text in (*PROBE, "a<new> b"):
        assert again.encode(text) == extended.encode(text), text


def test_a_token_that_a_class_reads_by_code_of_its_own_is_refused(tmp_path):
    tokenizer = Tokenizer.load(save(tmp_path, sentencepiece(), tokenizer_class="CodeLlamaTokenizer"))
    with pytest.raises(ModelError, match="a text has '<FILL_ME>'"):
        tokenizer.encode("def f():<FILL_ME>")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"tokenizer_class": "ByT5Tokenizer"}, "ByT5Tokenizer does not run by the tokenizers library"),
        ({"auto_map": {"AutoTokenizer": ["code.Own", None]}}, "transformers cannot build the tokenizer"),
    ],
)
def test_a_tokenizer_that_cannot_be_had_is_refused_with_the_remedy(tmp_path, settings, problem):
    folder = save(tmp_path, sentencepiece(), {"model_type": "other"}, **settings)
    with pytest.raises(ModelError, match=f"{problem}.*set tokenizer_class to TokenizersBackend"):
        Tokenizer.load(folder)


def test_presets_do_not_ask_transformers(tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert Tokenizer.load(tiny_folder).encode("a") == [68]


def test_only_what_transformers_takes_as_it_stands_is_plain(tmp_path):
    def is_plain(settings, config, **older):
        return plain_tokenizer(byte_level(), tmp_path, settings, older, config) is not None

    plain = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    assert is_plain(plain, {"model_type": "llama"})
    assert is_plain(plain, {}, bos_token="<s>")
    assert not is_plain(plain, {"model_type": "qwen2"})
    assert not is_plain(plain | {"add_bos_token": False}, {})
    assert not is_plain({"eos_token": "</s>"}, {})
    assert not is_plain(plain | {"eos_token": "<new>"}, {})
    assert not is_plain(plain | {"eos_token": {"content": "</s>", "rstrip": True}}, {})
    assert not is_plain(plain | {"extra_special_tokens": ["<new>"]}, {})
    assert not is_plain(plain, {}, bos_token="<new>")
    (tmp_path / "added_tokens.json").write_text('{"<new>": 400}')
    assert not is_plain(plain, {})


WRITES_TOKENS = (
    "{% if bos_token %}{{ bos_token }}{% endif %}{{ messages[0].content }}{{ eos_token }}{{ unk_token }}{{ pad_token }}"
    "{{ sep_token }}"
)
PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast"}
NAMES = {
    "all": ({}, {}),
    "none, but ids in config.json": ({**dict.fromkeys(NAMED), **PLAIN}, {}),
    "the class's own": (dict.fromkeys(NAMED), {}),
    "an older file's": (PLAIN, {"eos_token": {"content": "<unk>"}, "sep_token": "<s>"}),
    "an older file's that does not count": ({"added_tokens_decoder": {}}, {"eos_token": "<unk>"}),
    "one that the vocabulary lacks": ({"sep_token": "<new>", **PLAIN}, {}),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_template_is_given_the_tokens_that_transformers_names_and_no_other(tmp_path, case):
    import transformers

    settings, older = NAMES[case]
    folder = save(tmp_path, sentencepiece(), {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}, **settings)
    (folder / "special_tokens_map.json").write_text(json.dumps(older))
    (folder / "chat_template.jinja").write_text(WRITES_TOKENS)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = Tokenizer.load(folder)
    expected = theirs.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert render_chat(tokenizer, (("user", "hello"),)) == expected
    assert tokenizer.eos_ids[0] == (theirs.eos_token_id or 2)
    text = "a<unk>b<s>hello</s> <new>"
    assert tokenizer.encode(text) == theirs.encode(text, add_special_tokens=False)


def test_a_token_that_only_a_template_writes_is_part_of_what_is_fingerprinted(tmp_path):
    folder = save(tmp_path, sentencepiece(), {"bos_token_id": 1}, **PLAIN)
    (folder / "chat_template.jinja").write_text(WRITES_TOKENS)
    found = [Tokenizer.load(folder).fingerprint]
    for changed in ({"sep_token": "<s>"}, {"unk_token": "</s>"}, {"bos_token": None}):
        save(folder, sentencepiece(), {"bos_token_id": 1}, **PLAIN | changed)
        found.append(Tokenizer.load(folder).fingerprint)
    assert len(set(found)) == len(found)


def test_an_end_that_the_model_has_no_row_for_is_none(tmp_path):
    library = byte_level()
    config = {"vocab_size": library.get_vocab_size(), "eos_token_id": 2}
    folder = save(tmp_path, library, config, **PLAIN | {"eos_token": "<new>"})
    assert Tokenizer.load(folder).eos_ids == (2,)
