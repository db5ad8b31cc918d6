"""Prompts that sets share, counted exactly: as they are written, after folding, in any form that asks the same."""

from __future__ import annotations

import random

import numpy as np
import pytest

from workbench.data.formats import Chat, Preference, Prompt, PromptCompletion, Text, Unpaired
from workbench.data.overlap import PromptHashes, fold, hashes_of, prompts_of


def _rows(*prompts: str) -> list[PromptCompletion]:
    return [PromptCompletion(prompt, "c") for prompt in prompts]


def test_shared_and_repeated_prompts_are_counted_to_the_letter_and_folded():
    trained = hashes_of(_rows("2+2=", "What is it?", "what  is it?", "x"))
    held_out = hashes_of(_rows("2+2=", "WHAT is\nit? ", "y", "y", "2+2="))
    assert held_out.shared_with(trained) == (2, 3)
    assert trained.repeated == (0, 1)
    assert held_out.repeated == (2, 2)


def test_the_counts_are_those_of_sets_of_texts(tmp_path):
    draw = random.Random(0)
    texts = [[f"{'Ab' if draw.random() < 0.5 else 'aB'} {draw.randrange(400)}" for _ in range(1000)] for _ in range(2)]
    trained, held_out = (hashes_of(_rows(*side)) for side in texts)
    exact = sum(text in set(texts[0]) for text in texts[1])
    folded = sum(fold(text) in {fold(other) for other in texts[0]} for text in texts[1])
    assert 0 < exact < folded < 1000
    trained.save(tmp_path / "p.safetensors")
    again = PromptHashes.load(tmp_path / "p.safetensors")
    assert held_out.shared_with(again) == (exact, folded)
    assert again.repeated == (1000 - len(set(texts[0])), 1000 - len({fold(text) for text in texts[0]}))
    assert all(np.array_equal(value, vars(again)[name]) for name, value in vars(trained).items())


U, A, V, B = ("user", "q"), ("assistant", "a"), ("user", "v"), ("assistant", "b")
ASKED = [
    (PromptCompletion("q", "a"), ["q"]),
    (Prompt("q", "a"), ["q"]),
    (Prompt((("system", "s"), U)), ["q"]),
    (Preference("q", "a", "b"), ["q"]),
    (Preference((U,), (A,), (B,)), ["q"]),
    (Chat((U, A)), ["q"]),
    (Chat((("tools", "[]"), ("system", "s"), U, A)), ["q"]),
    (Chat((U, A, V, B)), ["q", "q\na\nv"]),
    (Chat((U, A, V, B), learn_from=3), ["q\na\nv"]),
    (Unpaired(PromptCompletion("q", "a"), True), ["q"]),
    (Text("q"), ["q"]),
    (PromptCompletion(" ", "a"), ["a"]),
    (Preference("", "c", "r"), ["c"]),
    (Chat((A,)), ["a"]),
]


@pytest.mark.parametrize(("example", "asked"), ASKED, ids=range(len(ASKED)))
def test_a_prompt_is_what_is_asked_in_whatever_form(example, asked):
    assert prompts_of(example) == asked


def test_a_prompt_that_an_earlier_answer_was_learned_from_is_shared():
    trained = hashes_of([Chat((U, A, V, B))])
    assert hashes_of(_rows("q", "q\na\nv", "v")).shared_with(trained) == (2, 2)
    assert len(trained) == 1
    assert trained.repeated == (0, 0)
