"""A data form says of its rows all that others ask: how they are read, tokenised, kept, counted and shown."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.data.rows import read_examples
from workbench.data.formats import FORMATS
from workbench.data.forms import FORMS, PAIRS, PROMPTS, ROWS, TEXT, UNPAIRED, form_named
from workbench.errors import DefinitionError

LINES = {
    "rows": {"prompt": "ab", "completion": "cde"},
    "text": {"text": "abcde"},
    "pairs": {"prompt": "ab", "chosen": "cde", "rejected": "f"},
    "pairs_with_margins": {"prompt": "ab", "chosen": "cde", "rejected": "f", "margin": 0.5},
    "prompts": {"prompt": "ab", "answer": "cde"},
    "unpaired": {"prompt": "ab", "completion": "cde", "label": False},
}
COUNTED = {  # tokens read, tokens of the longest text, and the characters that both are guessed from
    "rows": (6, 6),
    "text": (6, 0),
    "pairs": (8, 6),
    "pairs_with_margins": (8, 6),
    "prompts": (2, 2),
    "unpaired": (6, 6),
}


@pytest.fixture(params=FORMS)
def kept(request, tmp_path, make_tokenizer):
    """Each form with an example of it, and the set that it became and was saved as."""
    form, path = FORMS[request.param], tmp_path / "rows.jsonl"
    path.write_text(json.dumps(LINES[form.name]))
    examples, _ = read_examples(path, form=form.name)
    rows, counts = form.tokenise(examples, make_tokenizer(), 99, as_chat=False)
    rows.save(tmp_path / "rows.safetensors")
    return form, examples[0], form.load(tmp_path / "rows.safetensors"), counts


def test_what_is_guessed_from_characters_is_what_is_counted_in_tokens(kept):
    """Of a tokenizer with a token a character."""
    form, example, rows, counts = kept
    read, longest = COUNTED[form.name]
    assert (len(rows), counts.rows, int(rows.read_lengths[0])) == (1, 1, read)
    assert (form.num_characters(example), form.longest_text(example)) == (read, longest)
    assert longest in (int(rows.text_lengths[0]), 0)


def test_a_pair_taken_apart_is_guessed_as_the_two_rows_that_it_gives(tmp_path, make_tokenizer):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(LINES["pairs"]))
    [pair], _ = read_examples(path, form="unpaired")
    rows, _ = UNPAIRED.tokenise([pair], make_tokenizer(), 99, as_chat=False)
    assert UNPAIRED.row_characters(pair) == tuple(rows.read_lengths) == (6, 4)
    assert UNPAIRED.longest_text(pair) == 6


def test_a_set_is_batched_by_its_unit_and_shown_whole(kept):
    form, _, rows, _ = kept
    batch = rows.batch(np.array([0]))
    assert all(len(value) == 1 for value in batch.values())
    shown = {part.name: part.text or part.learned.tolist() for part in rows.parts(0)}
    row = [False, False, True, True, True, True]
    pair = {"prompt": [False] * 2, "chosen": [True] * 4, "rejected": [True] * 2}
    assert (
        shown
        == {
            "rows": {"": row},
            "text": {"": [True] * 6},
            "pairs": pair,
            "pairs_with_margins": {**pair, "margin": "0.5"},
            "prompts": {"prompt": [False] * 2, "answer": "cde"},
            "unpaired": {"": row, "desirable": "false"},
        }[form.name]
    )
    assert (rows.num_answered == 1) == form.is_sampled


def test_every_file_format_serves_a_form():
    served = {known for form in FORMS.values() for known in form.wanted.formats}
    assert served == set(FORMATS)


def test_units_name_the_settings_of_a_batch():
    assert [form.batch_setting for form in (ROWS, TEXT, PAIRS, PROMPTS, UNPAIRED)] == [
        "batch_rows",
        "batch_rows",
        "batch_pairs",
        "batch_prompts",
        "batch_rows",
    ]


def test_a_name_that_is_no_forms_is_told_with_those_that_are():
    with pytest.raises(DefinitionError, match=rf"own.My: data_form is 'pair', allowed {', '.join(FORMS)}, or a Data"):
        form_named("pair", "own.My")
