"""Prompts that are completed while training: the ids that evaluation uses, the answers that verifiers compare with."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.data.rows import WANTED, read_examples
from workbench.data.bad_rows import BadRows
from workbench.data.formats import Chat, Prompt, PromptCompletion, parse_example
from workbench.data.reading import Examples
from workbench.data.sets import PromptSet
from workbench.data.sources import Record
from workbench.data.tasks import prompt_id
from workbench.data.tokenise import encode_prompts, tokenise_prompts
from workbench.data.wanted import format_of
from workbench.errors import DataError

USER, ANSWER = ("user", "u"), ("assistant", "a")
TURNS = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]


def _prompts(tokenizer, *examples, max_tokens=100, as_chat=False, task=None):
    return tokenise_prompts(examples, tokenizer, max_tokens, as_chat=as_chat, task=task)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "p"}, Prompt("p")),
        ({"prompt": "p", "answer": "a"}, Prompt("p", "a")),
        ({"prompt": "p", "answer": None}, Prompt("p")),
        ({"prompt": "p", "answer": 42}, Prompt("p", "42")),
        ({"prompt": "p", "answer": 42.0}, Prompt("p", "42")),
        ({"prompt": "p", "answer": 10**400}, Prompt("p", f"1{'0' * 400}")),
        ({"prompt": "p", "answer": -0.5}, Prompt("p", "-0.5")),
        ({"prompt": TURNS[:1], "answer": "a"}, Prompt((USER,), "a")),
        ({"prompt": "p", "completion": "c"}, PromptCompletion("p", "c")),
        ({"prompt": "p", "completion": "c", "answer": "a"}, Prompt("p", "a")),
        ({"question": "q", "answer": "a"}, PromptCompletion("q", "a")),
        ({"messages": TURNS}, Chat((USER, ANSWER))),
        ({"prompt": "p", "text": "t"}, Prompt("p")),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, Prompt("p")),
    ],
)
def test_a_row_that_holds_a_prompt_is_read_by_its_fields(fields, expected):
    assert parse_example(format_of(fields, WANTED["prompts"]), fields) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "t"}, "found text rows, this needs rows of prompt; prompt, answer; prompt, completion; messages"),
        ({"chosen": "ab", "rejected": "ac"}, "found preference with implicit prompt rows, this needs rows of prompt;"),
        (
            {"prompt": "p", "completion": "c", "label": True},
            "found unpaired rows, .* remove the column label",
        ),
        ({"prompt": ""}, "prompt is empty, allowed text"),
        ({"prompt": "p", "answer": True}, "answer is bool, allowed text"),
        ({"prompt": TURNS}, "the prompt ends with an assistant turn, allowed one that an assistant turn answers"),
        ({"prompt": []}, "prompt is empty, allowed a list of turns"),
    ],
)
def test_a_row_that_asks_nothing_is_named(fields, message):
    with pytest.raises(DataError, match=f"f:1: {message}"):
        list(Examples([Record("f:1", fields)], WANTED["prompts"], BadRows()))


def test_rows_are_not_learned_from_prompts_alone():
    with pytest.raises(DataError, match="f:1: found prompt-only rows, this needs rows of text; prompt, completion"):
        list(Examples([Record("f:1", {"prompt": "p"})], WANTED["rows"], BadRows()))


def test_answers_are_not_learned_unless_they_are_named_as_completions():
    row = Record("f:1", {"prompt": "1+1=", "answer": 2})
    with pytest.raises(DataError, match=r"found prompt-answer rows, .* columns: \{completion: answer\} learns"):
        list(Examples([row], WANTED["rows"], BadRows()))
    text = Record("f:1", {"prompt": "1+1=", "answer": "2"})
    [named] = Examples([text], WANTED["rows"], BadRows(), columns={"completion": "answer"})
    assert named == PromptCompletion("1+1=", "2")


def test_held_out_rows_may_be_prompts_with_answers_and_are_rows_where_they_have_a_completion():
    row = {"prompt": "1+1=", "answer": "2"}
    assert list(Examples([Record("f:1", row)], WANTED["held_out"], BadRows())) == [Prompt("1+1=", "2")]
    [both] = Examples([Record("f:1", row | {"completion": "so 2"})], WANTED["held_out"], BadRows())
    assert both == PromptCompletion("1+1=", "so 2", "2")
    for fields in ({"prompt": "1+1="}, {"prompt": "p", "chosen": "a", "rejected": "b"}):
        with pytest.raises(DataError, match="this needs rows of text; prompt, completion; prompt, answer; messages"):
            list(Examples([Record("f:1", fields)], WANTED["held_out"], BadRows()))


def test_prompt_ids_are_those_that_evaluation_uses(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml, bos=True)
    examples = PromptCompletion("ab", "c"), Chat((("system", "s"), USER, ANSWER)), Prompt((USER,)), Prompt("abc")
    asked = ["ab", (("system", "s"), USER), (USER,), "abc"]
    for as_chat in (False, True):
        found, _ = _prompts(tokenizer, *examples, as_chat=as_chat)
        assert [found.prompts[row].tolist() for row in range(4)] == encode_prompts(tokenizer, asked, as_chat=as_chat)


def test_a_batch_holds_prompts_padded_left_with_text_answer_and_id(tokenizer, tmp_path):
    reasoned = PromptCompletion("d", "so é", reference="é")
    found, counts = _prompts(tokenizer, PromptCompletion("ab", "c"), Prompt("a"), reasoned, task="sort")
    found.save(tmp_path / "rows.safetensors")
    batch = PromptSet.load(tmp_path / "rows.safetensors").batch(np.array([1, 0, 2]))
    [[a, b], [d]] = tokenizer.encode_batch(["ab", "d"])
    assert batch["prompts"].tolist() == [[0, a], [a, b], [0, d]]
    assert batch["prompt_mask"].tolist() == [[False, True], [True, True], [False, True]]
    assert batch["texts"] == ["a", "ab", "d"]
    assert batch["answers"] == [None, "c", "é"]
    assert batch["prompt_ids"] == [prompt_id("sort", text) for text in ("a", "ab", "d")]
    assert (counts.rows, counts.tokens, counts.learned) == (3, 4, 0)


def test_a_long_prompt_loses_its_beginning_and_is_counted(tokenizer):
    found, counts = _prompts(tokenizer, Prompt("abcde"), Prompt("ab"), max_tokens=3)
    assert [tokenizer.decode(found.prompts[row].tolist()) for row in range(2)] == ["cde", "ab"]
    assert counts.cut == {"prompt": {"rows": 1, "tokens": 2}}
    assert found.texts[0] == "abcde"


def test_prompts_that_cannot_be_asked_are_bad_rows(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml)
    bad = BadRows(skip=True)
    examples = Chat((ANSWER,)), Chat((USER, ANSWER, USER)), PromptCompletion("", "c"), Prompt("a")
    found, counts = tokenise_prompts(examples, tokenizer, 9, as_chat=False, bad=bad)
    assert len(found) == counts.rows == 1
    assert counts.bad_examples == [
        "row 1: it has one turn, allowed a prompt before the answer",
        "row 2: it ends with a user turn, allowed an assistant turn, which is the answer",
        "row 3: prompt is empty, allowed at least one token to continue from",
    ]


def test_columns_and_turns_travel_with_the_prompts(tmp_path, tokenizer):
    rows = [{"prompt": "u", "answer": "2", "level": 3}, {"prompt": "a", "answer": "4", "level": {"a": [1.5]}}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples, _ = read_examples(tmp_path / "rows.jsonl", form="prompts")
    found, _ = tokenise_prompts(examples, tokenizer, 99, as_chat=False)
    found.save(tmp_path / "rows.safetensors")
    loaded = PromptSet.load(tmp_path / "rows.safetensors")
    assert loaded.columns() == ["prompt", "answer", "level"]
    batch = loaded.batch(np.array([1, 0]))
    assert [columns["level"] for columns in batch["columns"]] == [{"a": [1.5]}, 3]
    assert batch["messages"] == [None, None]
