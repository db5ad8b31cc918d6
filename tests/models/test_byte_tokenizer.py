"""The preset that reads and writes any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.models.load import load_model
from workbench.models.resolve import resolve_model_folder
from workbench.models.settings import ModelSettings
from workbench.models.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return resolve_model_folder(ModelSettings(preset="bytes"), tmp_path_factory.mktemp("models"))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=40))
def test_any_text_is_its_bytes_after_the_special_tokens_and_comes_back(folder, text):
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode(text)
    assert ids == [2 + byte for byte in text.encode()]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_every_byte_has_a_token_and_half_a_character_is_shown_as_one_that_is_missing(folder):
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.vocab_size == 258
    assert tokenizer.decode([2 + byte for byte in (0x61, 0xE2, 0x82)]) == "a\ufffd"
    assert (tokenizer.eos_ids, tokenizer.pad_id, tokenizer.decode([1])) == ((1,), 0, "")


def test_the_model_has_a_row_for_every_byte(folder):
    assert load_model(folder).lm_head.weight.shape == (258, 128)


def test_transformers_reads_the_same_ids(folder):
    transformers = pytest.importorskip("transformers")
    text = "¾ of 8€ – 5\n\t<eos>"
    assert transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == Tokenizer.load(folder).encode(text)
