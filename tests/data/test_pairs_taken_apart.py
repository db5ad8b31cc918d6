"""Pairs as two labelled rows each, and labels that are all alike."""

from __future__ import annotations

import pytest

from workbench.data.formats import Preference, PromptCompletion, Unpaired
from workbench.data.forms import PAIRS, UNPAIRED
from workbench.errors import DataError
from workbench.models.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(tiny_folder):
    return Tokenizer.load(tiny_folder)


def test_a_pair_gives_its_chosen_and_its_rejected_completion_behind_one_prompt(tokenizer):
    examples = [Preference("ab", "c", "de", where="p:1"), Preference("f", "gh", "i", where="p:2")]
    found, counts = UNPAIRED.tokenise(examples, tokenizer, 64, as_chat=False)
    pairs, of_pairs = PAIRS.tokenise(examples, tokenizer, 64, as_chat=False)
    assert found.values.tolist() == [True, False, True, False]
    for row, (pair, side) in enumerate(
        [(0, pairs.chosen), (0, pairs.rejected), (1, pairs.chosen), (1, pairs.rejected)]
    ):
        prompt, completion = pairs.prompts[pair].tolist(), side[pair].tolist()
        batch = found.batch([row])
        assert batch["input_ids"][0].tolist() == prompt + completion
        assert batch["labels"][0].tolist() == [-100] * len(prompt) + completion
    assert (counts.rows, counts.tokens, counts.learned) == (4, of_pairs.tokens, of_pairs.learned)
    assert counts.places == ["p:1", "p:1", "p:2", "p:2"]


@pytest.mark.parametrize("label", [True, False])
def test_rows_of_one_label_alone_are_refused_by_name(tokenizer, label):
    examples = [Unpaired(PromptCompletion("p", text), label, where=f"rows.jsonl:{n}") for n, text in enumerate("ab", 1)]
    found, counts = UNPAIRED.tokenise(examples, tokenizer, 64, as_chat=False)
    with pytest.raises(DataError, match=rf"rows.jsonl:1: label is {str(label).lower()} here and in all 2 rows"):
        UNPAIRED.check(found, counts.places)
