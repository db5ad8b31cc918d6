"""Rows that cannot be used: named and counted by reason, or left out where that is asked for."""

from __future__ import annotations

import json

import pytest

from tests.data.rows import WANTED, read_examples
from workbench.data.bad_rows import BadRows
from workbench.data.formats import Chat
from workbench.data.reading import Examples
from workbench.data.sources import Record
from workbench.data.tokenise import tokenise_rows
from workbench.errors import DataError

USER, ANSWER = ("user", "u"), ("assistant", "a")


def test_rows_that_a_template_refuses_are_all_named_or_skipped_and_counted(make_tokenizer, chatml):
    template = "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}" + chatml
    texts = ("bad", "good", "bad")
    rows = [Chat((("user", text), ANSWER), where=f"a.jsonl:{line}") for line, text in enumerate(texts, start=1)]
    with pytest.raises(DataError) as error:
        tokenise_rows(rows, make_tokenizer(template), 99, as_chat=False, every_token=False)
    named = ["a.jsonl:1: the chat template refuses it: no; 1 more like it, at 3"]
    assert str(error.value).splitlines()[0] == named[0]
    kept, counts = tokenise_rows(
        rows, make_tokenizer(template), 99, as_chat=False, every_token=False, bad=BadRows(skip=True)
    )
    assert (len(kept), counts.bad, counts.bad_examples, counts.places) == (1, 2, named, ["a.jsonl:2"])


def test_a_file_of_mixed_formats_names_the_rows_that_differ(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [
        {"messages": [{"role": role, "content": content} for role, content in (USER, ANSWER)]},
        {"text": "t"},
        {"conversations": []},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(DataError) as error:
        read_examples(path, form="rows")
    missing = "has no messages, though earlier rows are of the format messages"
    assert str(error.value).splitlines()[0] == f"{path}:2: {missing}; 1 more like it, at 3"


def test_held_out_rows_are_never_left_out_and_say_so():
    bad = BadRows(remedy="mend the rows: none of a held-out set is left out")
    records = [Record("a:1", {"text": "t"}), Record("a:2", {"text": ""})]
    with pytest.raises(DataError) as error:
        list(Examples(records, WANTED["rows"], bad))
    assert str(error.value) == "a:2: text is empty, allowed text\nmend the rows: none of a held-out set is left out"
