"""Margins of pairs: read where the trainer learns from them, and one line where they are none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.data.rows import read_examples
from workbench.data.forms import PAIRS, PAIRS_WITH_MARGINS
from workbench.data.sets import PairSet
from workbench.errors import DataError
from workbench.models.tokenizer import Tokenizer

FORM = PAIRS_WITH_MARGINS.name
PAIR = {"prompt": "p", "chosen": "cc", "rejected": "r"}
USER, ANSWERS = {"role": "user", "content": "p"}, [{"role": "assistant", "content": text} for text in "ab"]
TURNS = {"chosen": [USER, ANSWERS[0]], "rejected": [USER, ANSWERS[1]]}


@pytest.fixture
def write(tmp_path):
    def rows(*rows):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return path

    return rows


@pytest.fixture
def read(write, tiny_folder):
    """read(*rows, form) -> the rows as a set of that form."""

    def tokenised(*rows, form=PAIRS_WITH_MARGINS):
        examples = read_examples(write(*rows), form=form.name)[0]
        return form.tokenise(examples, Tokenizer.load(tiny_folder), 16, as_chat=False)[0]

    return tokenised


def test_margins_stand_in_the_batch_and_in_the_file_of_the_set(read, tmp_path):
    pairs = read(PAIR | {"margin": 0.5}, PAIR | {"chosen": "dd", "margin": 2})
    pairs.save(tmp_path / "rows.safetensors")
    for found in (pairs, PAIRS_WITH_MARGINS.load(tmp_path / "rows.safetensors")):
        assert found.batch(np.array([1, 0]))["margins"].tolist() == [2.0, 0.5]
    assert pairs.parts(0)[-1].text == "0.5"


def test_pairs_without_margins_have_none(read, tmp_path):
    for pairs in (read(PAIR), read(PAIR, form=PAIRS), read(PAIR | {"margin": 1}, form=PAIRS)):
        assert "margins" not in pairs.batch(np.array([0]))
        pairs.save(tmp_path / "rows.safetensors")
        assert PairSet.load(tmp_path / "rows.safetensors").margins is None


def test_pairs_whose_prompt_is_in_both_sides_may_have_margins(write):
    path = write(TURNS | {"margin": 1.5}, TURNS | {"margin": 0})
    assert [example.margin for example in read_examples(path, form=FORM)[0]] == [1.5, 0.0]


def test_a_system_message_beside_the_pair_leaves_the_margin(write):
    path = write(TURNS | {"margin": 1.5, "system": "be brief"})
    assert [example.margin for example in read_examples(path, form=FORM)[0]] == [1.5]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (PAIR | {"margin": "1"}, "margin is str, allowed a number"),
        (PAIR | {"margin": True}, "margin is bool, allowed a number"),
        (PAIR | {"margin": None}, "margin is null, allowed a number"),
        (PAIR | {"margin": -0.5}, "margin is -0.5, allowed a finite number >= 0"),
        (PAIR | {"margin": 10**400}, f"margin is 1{'0' * 58}..., allowed a finite number >= 0"),
        (PAIR, "has no margin, though earlier rows are of the format preference, with margin"),
        (PAIR | {"chosen": "r", "margin": 1}, "chosen and rejected are the same text, so there is nothing to prefer"),
    ],
)
def test_a_margin_that_is_none_is_named_by_its_line(write, row, problem):
    path = write(PAIR | {"margin": 1.0}, row)
    with pytest.raises(DataError) as error:
        read_examples(path, form=FORM)
    assert f"pairs.jsonl:2: {problem}" in str(error.value)
