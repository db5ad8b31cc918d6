"""The difficulty of each row, read from a column, follows the rows that are kept, in every form."""

from __future__ import annotations

import json

import numpy as np
import pytest

from workbench.data.forms import FORMS
from workbench.data.ragged import Ragged
from workbench.data.sets import RowSet
from workbench.data.settings import FileData
from workbench.data.taught import TaughtSet
from workbench.errors import DataError
from workbench.experiment.stages.data import Reading, load_difficulty

LONG = "a" * 100
PAIR = {"prompt": "q", "chosen": "cd", "rejected": "e"}
SAME_ONCE_CUT = {"prompt": "q", "chosen": LONG, "rejected": LONG + "b"}


def _asked(*contents):
    turns = zip(("user", "assistant"), contents, strict=True)
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


CASES = {  # a row that is kept, one that is left out, another that is kept, and what is kept of them
    "rows": (tuple({"prompt": "q", "completion": text} for text in ("a", "", "b")), [5, 2]),
    "rows of chats": ((_asked("q", "a"), _asked(LONG, "a"), _asked("q", "b")), [5, 2]),
    "text that is divided": (({"text": "ab"}, {"text": ""}, {"text": LONG}), [5, 2, 2, 2]),
    "pairs": ((PAIR, SAME_ONCE_CUT, PAIR), [5, 2]),
    "pairs_with_margins": ((PAIR | {"margin": 1}, SAME_ONCE_CUT | {"margin": 1}, PAIR | {"margin": 0}), [5, 2]),
    "prompts": (tuple({"prompt": text, "answer": "a"} for text in ("q", "", "p")), [5, 2]),
    "unpaired": (
        (
            {"prompt": "q", "completion": "a", "label": True},
            {"prompt": "q", "completion": "a", "label": "perhaps"},
            {"prompt": "q", "completion": "b", "label": False},
        ),
        [5, 2],
    ),
    "unpaired of pairs": ((PAIR, SAME_ONCE_CUT, PAIR), [5, 5, 2, 2]),
}


@pytest.fixture
def read(tmp_path, make_tokenizer, chatml):
    """read(form, rows, column) -> the rows of a file as a stage keeps them, and its path."""

    def reads(form, rows, column="level", bad_rows="skip"):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        settings = FileData(path=str(path), max_tokens=40, bad_rows=bad_rows)
        return Reading.of(settings, FORMS[form], column).tokenise(make_tokenizer(chatml))

    return reads


@pytest.mark.parametrize("case", CASES)
def test_difficulties_follow_the_rows_that_are_kept(read, tmp_path, case):
    rows, expected = CASES[case]
    found = read(case.split()[0], [row | {"level": level} for row, level in zip(rows, (5, 9, 2), strict=True)])
    assert (len(found.rows), found.counts.bad + found.counts.dropped) == (len(expected), 1)
    found.save(tmp_path)
    assert load_difficulty(tmp_path).tolist() == expected
    assert not found.counts.unread


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"level": "hard"}, "level is 'hard', allowed a finite number"),
        ({"level": None}, "level is None, allowed a finite number"),
        ({"level": True}, "level is True, allowed a finite number"),
        ({"level": 10**400}, "allowed a finite number"),
        ({}, "has no column level, which data.curriculum.column names"),
    ],
)
def test_a_row_without_a_number_is_a_bad_row_by_its_place(read, value, said):
    rows = [PAIR | {"level": 1}, PAIR | value, PAIR | {"level": -2.5}]
    with pytest.raises(DataError) as error:
        read("pairs", rows, bad_rows="error")
    first = str(error.value).splitlines()[0]
    assert "rows.jsonl:2: " in first
    assert said in first
    assert read("pairs", rows).difficulty.tolist() == [1, -2.5]


def test_a_column_may_lie_within_another_and_what_lies_beside_it_is_named(read):
    found = read("rows", [{"prompt": "q", "completion": "a", "meta": {"level": 3, "by": "me"}}], "meta.level")
    assert found.difficulty.tolist() == [3]
    assert found.counts.unread == {"meta.by": 1}


def test_a_stage_without_a_difficulty_has_the_key_and_the_files_it_had(read, tmp_path):
    settings = FileData(path="rows.jsonl")
    without, named = (Reading.of(settings, FORMS["rows"], column).key for column in (None, "level"))
    assert "difficulty" not in without
    assert named == without | {"difficulty": "level"}
    read("rows", [{"prompt": "q", "completion": "a"}], None).save(tmp_path)
    assert not (tmp_path / "difficulty.safetensors").exists()


def test_rows_with_what_a_teacher_says_of_them_have_their_own_length():
    rows = RowSet(Ragged.from_rows([[1, 2, 3], [4]]), np.ones(4, bool))
    assert TaughtSet(rows, np.zeros((4, 9), np.float32)).text_lengths.tolist() == [3, 1]
