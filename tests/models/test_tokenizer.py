"""Text to ids and back, and what the folder's files say of it."""

from __future__ import annotations

import json
import shutil

import pytest

from workbench.errors import ModelError
from workbench.models.presets import CHARACTERS
from workbench.models.tokenizer import Tokenizer
from workbench.models.weights import name_ends


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "t")


def edit(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def test_every_character_is_one_token_and_comes_back(tiny_folder):
    tokenizer = Tokenizer.load(tiny_folder)
    ids = tokenizer.encode(CHARACTERS)
    assert ids == list(range(2, 2 + len(CHARACTERS)))
    assert tokenizer.decode(ids) == CHARACTERS
    assert tokenizer.vocab_size == len(CHARACTERS) + 2


def test_special_tokens_in_a_text_are_read_and_left_out_again(tiny_folder):
    tokenizer = Tokenizer.load(tiny_folder)
    ids = tokenizer.encode("a<eos>b")
    assert ids == [tokenizer.token_id("a"), 1, tokenizer.token_id("b")]
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<eos>b"
    assert tokenizer.token_text(1) == "<eos>"


def test_a_character_without_a_token_is_an_error_that_names_it(tiny_folder):
    with pytest.raises(ModelError, match="no token for 'é' in 'café'; remove it from the data"):
        Tokenizer.load(tiny_folder).encode_batch(["abc", "café"])


def test_every_eos_of_the_model_counts(folder):
    edit(folder, "generation_config.json", eos_token_id=[5, 1, 7])
    edit(folder, "config.json", eos_token_id=9)
    assert Tokenizer.load(folder).eos_ids == (1, 5, 7, 9)


def test_pad_may_be_eos_or_absent(folder):
    edit(folder, "tokenizer_config.json", pad_token="<eos>")
    assert Tokenizer.load(folder).pad_id == 1
    edit(folder, "tokenizer_config.json", pad_token=None)
    for name in ("config.json", "generation_config.json"):
        edit(folder, name, pad_token_id=None)
    assert Tokenizer.load(folder).pad_id == 1


def test_a_token_named_but_not_in_the_vocabulary_is_no_id(folder):
    edit(folder, "tokenizer_config.json", bos_token="<s>")
    edit(folder, "config.json", vocab_size=Tokenizer.load(folder).num_ids - 1)
    assert Tokenizer.load(folder).bos_id is None


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda f: None, None),
        (lambda f: edit(f, "tokenizer_config.json", chat_template="one"), "one"),
        (lambda f: edit(f, "tokenizer_config.json", chat_template=[{"name": "default", "template": "two"}]), "two"),
        (lambda f: (f / "chat_template.jinja").write_text("three"), "three"),
    ],
)
def test_the_chat_template_is_found_wherever_it_stands(folder, write, expected):
    write(folder)
    assert Tokenizer.load(folder).chat_template == expected


def test_truncation_in_the_file_never_cuts_text(folder):
    edit(
        folder,
        "tokenizer.json",
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    )
    assert len(Tokenizer.load(folder).encode("abcdef")) == 6


def test_saved_it_is_the_same_and_its_fingerprint_tells_changes(folder, tmp_path):
    tokenizer = Tokenizer.load(folder)
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").encode("xyz") == tokenizer.encode("xyz")
    shutil.copyfile(folder / "config.json", tmp_path / "saved" / "config.json")
    shutil.copyfile(folder / "generation_config.json", tmp_path / "saved" / "generation_config.json")
    assert Tokenizer.load(tmp_path / "saved").fingerprint == tokenizer.fingerprint
    (folder / "chat_template.jinja").write_text("other")
    assert Tokenizer.load(folder).fingerprint != tokenizer.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("tokenizer.json", "{}", "not a readable tokenizer"),
        ("tokenizer_config.json", "{", "not readable as JSON"),
        ("config.json", "[]", "a JSON object is needed, found list"),
    ],
)
def test_damaged_files_are_named(folder, name, content, problem):
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=rf"{name}: {problem}"):
        Tokenizer.load(folder)


def test_ends_and_beginnings_that_an_older_file_names_count(folder):
    edit(folder, "tokenizer_config.json", eos_token=None)
    for name in ("config.json", "generation_config.json"):
        edit(folder, name, eos_token_id=None)
    edit(folder, "special_tokens_map.json", eos_token={"content": "<eos>"}, bos_token="<pad>")
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.eos_ids, tokenizer.bos_id) == ((1,), 0)


def test_a_token_that_the_files_name_as_special_is_read_as_one(folder):
    edit(folder, "tokenizer_config.json", extra_special_tokens=["~"])
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.decode(tokenizer.encode("a~b")) == "ab"


def test_saved_ends_stand_where_other_tools_look(folder):
    name_ends(folder, [1])
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 1
    name_ends(folder, [1, 7])
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [1, 7]
