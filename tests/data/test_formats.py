"""Formats told by their fields: TRL's as TRL reads them, Alpaca's words, ShareGPT's roles; nothing lost in silence."""

from __future__ import annotations

import pytest

from tests.data.rows import WANTED
from workbench.data.bad_rows import BadRows
from workbench.data.conversations import split_prompt
from workbench.data.formats import (
    Chat,
    Preference,
    Prompt,
    PromptCompletion,
    Text,
    Unpaired,
    parse_example,
)
from workbench.data.reading import Examples
from workbench.data.sources import Record
from workbench.data.tokenise import tokenise_pairs, tokenise_rows
from workbench.data.wanted import format_of
from workbench.errors import DataError

USER, ANSWER, WORSE = ("user", "u"), ("assistant", "a"), ("assistant", "b")


def _turns(*turns: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


def _parsed(fields: dict, form: str = "rows", **kwargs):
    return parse_example(format_of(fields, WANTED[form]), fields, **kwargs)


FORMATS = [
    ("rows", {"text": "t"}, Text("t")),
    ("rows", {"messages": _turns(USER, ANSWER)}, Chat((USER, ANSWER))),
    ("rows", {"prompt": "p", "completion": "c"}, PromptCompletion("p", "c")),
    ("rows", {"prompt": _turns(USER), "completion": _turns(ANSWER)}, Chat((USER, ANSWER), learn_from=1)),
    ("pairs", {"prompt": "p", "chosen": "c", "rejected": "r"}, Preference("p", "c", "r")),
    ("pairs", {"chosen": "p: c", "rejected": "p: r"}, Preference("p:", " c", " r")),
    ("pairs", {"prompt": _turns(USER), "chosen": _turns(ANSWER), "rejected": _turns(WORSE)},
     Preference((USER,), (ANSWER,), (WORSE,))),
    ("pairs", {"chosen": _turns(USER, ANSWER), "rejected": _turns(USER, WORSE)},
     Preference((USER,), (ANSWER,), (WORSE,))),
    ("pairs", {"prompt": "u", "chosen": _turns(USER, ANSWER), "rejected": _turns(USER, WORSE), "messages": []},
     Preference((USER,), (ANSWER,), (WORSE,))),
    ("rows", {"prompt": "p", "completion": "c", "label": True}, Unpaired(PromptCompletion("p", "c"), True)),
    ("unpaired", {"prompt": _turns(USER), "completion": _turns(ANSWER), "label": False},
     Unpaired(Chat((USER, ANSWER), learn_from=1), False)),
    ("rows", {"prompt": "p", "completion": "c", "label": "algebra"}, PromptCompletion("p", "c")),
    ("rows", {"messages": _turns(USER, ANSWER), "chosen": "c", "rejected": "r"}, Chat((USER, ANSWER))),
    ("rows", {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "u"},
                                {"from": "gpt", "value": "a"}]}, Chat((("system", "s"), USER, ANSWER))),
    ("rows", {"messages": [{**_turns(USER)[0], "tool_calls": None}, *_turns(ANSWER)]}, Chat((USER, ANSWER))),
    ("rows", {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}], "system": "s"},
     Chat((("system", "s"), USER, ANSWER))),
    ("rows", {"messages": _turns(USER, ANSWER), "system": "s", "answer": 3},
     Chat((("system", "s"), USER, ANSWER), reference="3")),
    ("rows", {"messages": [*_turns(USER), {**_turns(WORSE)[0], "weight": 0}, *_turns(USER, ANSWER)], "system": "s"},
     Chat((("system", "s"), USER, WORSE, USER, ANSWER), unlearned=(2,))),
    ("rows", {"messages": [*_turns(USER), {**_turns(ANSWER)[0], "weight": 1.0, "train": True}]}, Chat((USER, ANSWER))),
    ("rows", {"prompt": "p", "completion": "c", "answer": 0.5}, PromptCompletion("p", "c", "0.5")),
    ("pairs", {"chosen": [*_turns(USER), {**_turns(WORSE)[0], "weight": 0}, *_turns(USER, ANSWER)],
               "rejected": _turns(USER, WORSE, USER, WORSE)}, Preference((USER, WORSE, USER), (ANSWER,), (WORSE,))),
]  # fmt: skip


@pytest.mark.parametrize(("form", "fields", "expected"), FORMATS, ids=range(len(FORMATS)))
def test_a_row_is_read_by_its_fields(form, fields, expected):
    assert _parsed(fields, form) == expected


def test_alpaca_is_written_word_by_word_as_it_was_trained():
    head = "Below is an instruction that describes a task"
    end = "Write a response that appropriately completes the request.\n\n### Instruction:\n"
    assert _parsed({"instruction": "Add.", "input": "", "output": "3"}) == PromptCompletion(
        f"{head}. {end}Add.\n\n### Response:", "3"
    )
    context = (
        f"{head}, paired with an input that provides further context. {end}Add.\n\n### Input:\n1 2\n\n### Response:"
    )
    fields = {"instruction": "Add.", "input": "1 2", "output": "3"}
    assert _parsed(fields) == PromptCompletion(context, "3")
    assert _parsed(fields, as_chat=True) == PromptCompletion("Add.\n\n1 2", "3")


IMPLICIT = [
    ("The sky is blue.", "The sky is green."),
    ("a b c", "a b d"),
    ("blue", "bluish"),
    ("ab", "abc"),
    ("x", "y"),
    ("a\n\nAssistant: yes", "a\n\nAssistant: no"),
]


@pytest.mark.parametrize(("chosen", "rejected"), IMPLICIT)
def test_an_implicit_prompt_is_split_off_as_trl_does(chosen, rejected):
    from trl.data_utils import extract_prompt

    theirs = extract_prompt({"chosen": chosen, "rejected": rejected})
    assert split_prompt(chosen, rejected) == tuple(theirs[name] for name in ("prompt", "chosen", "rejected"))


NONSENSE = [
    ("rows", {"messages": _turns(USER, ANSWER), "tools": {"a": 1}}, "tools is dict, allowed a list of tools"),
    ("rows", {"messages": _turns(USER, ANSWER), "tools": "[{"},
     "tools is text that is no JSON, allowed a list of tools"),
    ("rows", {"prompt": "p", "completion": "c", "tools": [{}]},
     "tools is given, which a chat template writes: set data.chat_template=true, or use messages"),
    ("rows", {"prompt": "p", "completion": "c", "system": "s"},
     "system is given, which a chat template writes: set data.chat_template=true, or use messages"),
    ("rows", {"messages": _turns(("system", "s"), USER, ANSWER), "system": "t"},
     "the field system is not the system turn that the conversation begins with"),
    ("rows", {"messages": [*_turns(USER), {**_turns(ANSWER)[0], "weight": 0.5}]},
     "messages[1].weight is 0.5, allowed 1 or true (learned), 0 or false (not learned)"),
    ("rows", {"messages": [{**_turns(USER)[0], "train": True}, *_turns(ANSWER)]},
     "messages[0].train is True on a user turn, allowed on assistant turns alone"),
    ("rows", {"messages": [*_turns(USER), {**_turns(ANSWER)[0], "train_detail": []}]},
     "messages[1].train_detail is not read here, allowed weight or train of a whole turn"),
    ("rows", {"messages": [*_turns(USER), {**_turns(ANSWER)[0], "weight": 0}]},
     "messages has no assistant turn to learn from: their weight is 0, or train is false"),
    ("pairs", {"prompt": _turns(USER), "chosen": [{**_turns(ANSWER)[0], "weight": 0}], "rejected": _turns(WORSE)},
     "chosen has a turn of weight 0 or train false, allowed in rows of messages"),
    ("rows", {"conversations": [{"from": "function_call", "value": "f"}]},
     "conversations[0].from is 'function_call', allowed system, human, user, gpt, assistant, tool, observation"),
    ("rows", {"conversations": []}, "conversations is empty, allowed a list of turns"),
    ("rows", {"prompt": _turns(USER), "completion": _turns(USER)}, "completion has no assistant turn to learn from"),
    ("rows", {"prompt": _turns(USER), "completion": "c"}, "prompt is list, allowed text"),
    ("rows", {"prompt": [], "completion": _turns(ANSWER)}, "prompt is empty, allowed a list of turns"),
    ("rows", {"instruction": "i", "input": 5, "output": "o"}, "input is int, allowed text"),
    ("pairs", {"chosen": _turns(ANSWER), "rejected": _turns(WORSE)},
     "chosen and rejected differ in their first turn, allowed ones that begin with the prompt"),
    ("pairs", {"chosen": _turns(USER, ANSWER), "rejected": _turns(USER, ANSWER)},
     "chosen and rejected are the same turns, so there is nothing to prefer"),
    ("pairs", {"chosen": _turns(USER, ANSWER, USER, ANSWER), "rejected": _turns(USER, ANSWER, ("user", "v"), ANSWER)},
     "the prompt ends with an assistant turn, allowed one that an assistant turn answers"),
    ("pairs", {"prompt": _turns(USER), "chosen": _turns(USER), "rejected": _turns(ANSWER)},
     "chosen has a user turn after the prompt, allowed an assistant turn"),
    ("pairs", {"prompt": "p", "chosen": _turns(ANSWER), "rejected": "r"}, "chosen is list, allowed text"),
    ("unpaired", {"prompt": "p", "completion": "", "label": True}, "completion is empty, allowed text"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "fields", "reason"), NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_one_line_that_says_what_is_allowed(form, fields, reason):
    with pytest.raises(ValueError) as error:
        _parsed(fields, form)
    assert str(error.value) == reason


def test_tools_and_a_system_message_lead_a_rendered_prompt():
    fields = {"prompt": "p", "completion": "c", "system": "s", "tools": '[{"name": "f"}]'}
    lead = (("tools", '[{"name": "f"}]'), ("system", "s"))
    assert _parsed(fields, as_chat=True) == Chat((*lead, ("user", "p"), ("assistant", "c")), learn_from=3)
    pair = {"prompt": "p", "chosen": "c", "rejected": "r", "system": "s"}
    expected = Preference((lead[1], ("user", "p")), (("assistant", "c"),), (("assistant", "r"),))
    assert _parsed(pair, "pairs", as_chat=True) == expected


def test_unpaired_rows_are_refused_by_what_learns_every_completion():
    records = [Record("a:1", {"prompt": "p", "completion": "c", "label": False})]
    with pytest.raises(DataError, match=r"a:1: found unpaired rows, .* remove the column label"):
        list(Examples(records, WANTED["rows"], BadRows()))
    assert len(list(Examples(records, WANTED["unpaired"], BadRows()))) == 1


@pytest.mark.parametrize(("label", "wanted"), [(1, True), (0, False), ("True", True), ("false", False)])
def test_a_label_may_be_written_as_csv_and_numbers_write_it(label, wanted):
    records = [Record("a:1", {"prompt": "p", "completion": "c", "label": label})]
    assert [example.label for example in Examples(records, WANTED["unpaired"], BadRows())] == [wanted]


def test_a_label_of_another_sort_leaves_rows_plain():
    records = [Record("a:1", {"prompt": "p", "completion": "c", "label": "algebra"})]
    assert list(Examples(records, WANTED["rows"], BadRows())) == [PromptCompletion("p", "c")]


def test_columns_are_read_under_the_names_they_are_given():
    records = [Record("a:1", {"problem": "p", "prompt": "not this", "solution": "s"})]
    columns = {"prompt": "problem", "completion": "solution"}
    assert list(Examples(records, WANTED["rows"], BadRows(), columns=columns)) == [PromptCompletion("p", "s")]


def test_a_named_column_that_a_row_lacks_is_a_bad_row():
    """Though the row has a field of the format's own name, which would be read in silence."""
    fields = {"prompt": "p", "completion": "not this"}
    records = [Record("a:1", fields | {"solution": "s"}), Record("a:2", fields)]
    with pytest.raises(DataError, match=r"^a:2: has no column solution, which data.columns names"):
        list(Examples(records, WANTED["rows"], BadRows(), columns={"completion": "solution"}))


def _error(rows: list[dict], form: str = "rows", **settings) -> str:
    records = [Record(f"a:{number}", row) for number, row in enumerate(rows, start=1)]
    with pytest.raises(DataError) as error:
        list(Examples(records, WANTED[form], BadRows(skip=settings.pop("skip", False)), name="a", **settings))
    return str(error.value)


@pytest.mark.parametrize("skip", [False, True])
def test_a_column_that_no_row_has_is_one_line(skip):
    rows = [{"prompt": "p", "completion": "not this", "solution": "s"}] * 64
    assert _error(rows, columns={"completion": "soluton"}, skip=skip) == (
        "a: columns: completion: soluton: none of its 64 rows has that column, allowed prompt, completion, solution; "
        "did you mean solution?"
    )
    assert _error([{"chosen": "ab", "rejected": "ac"}] * 64, columns={"prompt": "prompt", "completion": "chosen"}) == (
        "a: columns: prompt: prompt: none of its 64 rows has that column, allowed chosen, rejected; a prompt that "
        "chosen and rejected begin with needs no name: columns: {completion: chosen}"
    )
    assert _error([{"problem": "p", "Answer": "a"}] * 64, skip=skip).startswith(
        "a:1: columns: found problem, Answer, which is no format (nor is any other of 64 rows); "
        "name them as data.columns={prompt: problem, completion: Answer}; the formats have "
    )


def test_nested_columns_are_named_by_a_dotted_path():
    row = {
        "prompt": _turns(USER),
        "reward_model": {"ground_truth": 42, "style": "rule"},
        "extra.x": 1,
        "n": [{"a": "z"}],
    }
    found = Examples(
        [Record("a:1", row)], WANTED["prompts"], BadRows(), columns={"answer": "reward_model.ground_truth"}
    )
    assert list(found) == [Prompt((USER,), "42")]
    assert found.unread == {"reward_model.style": 1, "extra.x": 1, "n": 1}
    for column, answer in (("extra.x", "1"), ("n.0.a", "z")):
        assert list(Examples([Record("a:1", row)], WANTED["prompts"], BadRows(), columns={"answer": column})) == [
            Prompt((USER,), answer)
        ]


HH = {"chosen": "Human: u Assistant: yes", "rejected": "Human: u Assistant: no"}
CHATS = {"chosen": _turns(USER, ANSWER), "rejected": _turns(USER, WORSE)}
SIDES = [
    (HH, {"completion": "chosen"}, PromptCompletion("Human: u Assistant:", " yes")),
    (HH, {"completion": "rejected"}, PromptCompletion("Human: u Assistant:", " no")),
    ({"prompt": "p", **HH}, {"completion": "chosen"}, PromptCompletion("p", HH["chosen"])),
    ({"q": "p", **HH}, {"prompt": "q", "completion": "rejected"}, PromptCompletion("p", HH["rejected"])),
    ({"good": HH["chosen"], "bad": HH["rejected"]}, {"chosen": "good", "rejected": "bad", "completion": "good"},
     PromptCompletion("Human: u Assistant:", " yes")),
    (CHATS, {"completion": "rejected"}, Chat((USER, WORSE), learn_from=1)),
    ({"prompt": "u", **CHATS}, {"completion": "chosen"}, Chat((USER, ANSWER), learn_from=1)),
    ({"prompt": _turns(USER), "chosen": _turns(ANSWER), "rejected": _turns(WORSE)}, {"completion": "chosen"},
     Chat((USER, ANSWER), learn_from=1)),
]  # fmt: skip


@pytest.mark.parametrize(("row", "columns", "expected"), SIDES, ids=range(len(SIDES)))
@pytest.mark.parametrize("form", ["rows", "prompts"])
def test_a_trainer_of_rows_takes_a_side_of_pairs(row, columns, expected, form):
    assert list(Examples([Record("a:1", row)] * 2, WANTED[form], BadRows(), columns=columns)) == [expected] * 2


REFUSED = [
    ({"weight": 0.5}, "weight"), ({"weight": 0}, "weight"), ({"sample_weight": "2"}, "sample_weight"),
    ({"train": False}, "train"), ({"Loss_Mask": [1]}, "Loss_Mask"), ({"context": "c", "history": [["a", "b"]]},
    "context, history"), ({"images": ["a.png"]}, "images"),
    ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
    ({"system_prompt": "s"}, "system_prompt"), ({"label": False}, "label"), ({"input": "i"}, "input"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "names"), REFUSED, ids=range(len(REFUSED)))
@pytest.mark.parametrize("row", [{"messages": _turns(USER, ANSWER)}, {"question": "q", "answer": "a"}])
def test_a_column_that_would_change_what_is_learned_stops_the_run_in_one_line(more, names, row):
    rows = [row, *([row | more] * 3)]
    message = _error(rows, skip=True)
    assert message.startswith(f"a:2: has {names}, without which other things would be learned")
    assert message.endswith(f"or leave it out by data.ignore_columns=[{names}]")
    records = [Record("a:1", row) for row in rows]
    found = Examples(records, WANTED["rows"], BadRows(), ignored=names.split(", "))
    assert (len(list(found)), found.unread) == (4, {})


def test_an_ignored_column_is_as_if_it_were_not_there():
    row = {"messages": _turns(USER, ANSWER), "system": "s", "answer": {"a": 1}, "prompt": "p"}
    found = Examples([Record("a:1", row)], WANTED["rows"], BadRows(), ignored=["system", "answer"])
    assert list(found) == [Chat((USER, ANSWER))]
    assert found.unread == {"prompt": 1}


def test_a_side_of_pairs_is_led_by_its_system_message():
    lead = ("system", "s")
    for row, as_chat in ((HH | {"prompt": "p", "system": "s"}, True), (CHATS | {"system": "s"}, False)):
        [found] = Examples([Record("a:1", row)], WANTED["rows"], BadRows(), as_chat, {"completion": "chosen"})
        assert found.messages[0] == lead
        assert found.learn_from == len(found.messages) - 1


NEUTRAL = {"weight": 1.0, "train": True, "context": "", "images": [], "mask": None, "label": 3, "source": "web"}


def test_columns_that_change_nothing_are_named_and_counted():
    turns = [{**_turns(USER)[0], "timestamp": 5}, *_turns(ANSWER)]
    rows = [{"messages": turns, "id": 7, "chosen": "c", **NEUTRAL}, {"messages": _turns(USER, ANSWER), "id": 8}]
    found = Examples([Record("a:1", row) for row in rows], WANTED["rows"], BadRows())
    assert list(found) == [Chat((USER, ANSWER))] * 2
    assert found.unread == {"messages[].timestamp": 1, "id": 2, "chosen": 1, "weight": 1, "train": 1, "label": 1,
                            "source": 1}  # fmt: skip


def test_the_same_row_said_twice_is_no_context():
    """A row that is of several formats says in each what the others say."""
    row = {"instruction": "i", "input": "x", "output": "o", "text": "i x o", "messages": _turns(USER, ANSWER)}
    assert list(Examples([Record("a:1", row)], WANTED["rows"], BadRows())) == [Chat((USER, ANSWER))]


def test_only_the_completion_of_a_chat_is_learned(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml)
    example = Chat((USER, ("assistant", "old"), ("user", "v"), ANSWER), learn_from=3)
    rows, counts = tokenise_rows([example], tokenizer, 1000, as_chat=False, every_token=False)
    learned = rows.ids[0][rows.labelled]
    assert tokenizer.decode(learned.tolist(), skip_special_tokens=False) == "a<|im_end|>\n"
    assert counts.learned == 3


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"loss": False}, {"weight": 0.0, "train": True}])
def test_a_turn_of_weight_0_is_context_and_never_learned(make_tokenizer, chatml, flag):
    tokenizer = make_tokenizer(chatml)
    turns = [*_turns(USER), {**_turns(("assistant", "old"))[0], **flag}, *_turns(("user", "v"), ANSWER)]
    rows, _ = tokenise_rows([_parsed({"messages": turns})], tokenizer, 1000, as_chat=False, every_token=False)
    learned = rows.ids[0][rows.labelled]
    assert tokenizer.decode(learned.tolist(), skip_special_tokens=False) == "a<|im_end|>\n"
    assert "assistant\nold<|im_end|>" in tokenizer.decode(rows.ids[0].tolist(), skip_special_tokens=False)


def test_a_pair_of_turns_parts_after_the_prompt(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml)
    pairs, _ = tokenise_pairs([Preference((USER,), (ANSWER,), (WORSE,))], tokenizer, 1000, as_chat=False)
    texts = [tokenizer.decode(part[0].tolist(), False) for part in (pairs.prompts, pairs.chosen, pairs.rejected)]
    assert texts == ["<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>\n", "b<|im_end|>\n"]


def test_a_conversation_that_loses_all_it_teaches_is_named_or_counted(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml)
    rows = [Chat((("user", "u" * 40), ANSWER), where="a.jsonl:1"), Chat((USER, ANSWER), where="a.jsonl:2")]
    with pytest.raises(DataError) as error:
        tokenise_rows(rows, tokenizer, 40, as_chat=False, every_token=False)
    reason = "a.jsonl:1: nothing is learned: the part to learn begins at token 60 and max_tokens is 40"
    assert str(error.value).splitlines()[0] == reason
    kept, counts = tokenise_rows(rows, tokenizer, 40, as_chat=False, every_token=False, bad=BadRows(skip=True))
    assert (len(kept), counts.dropped, counts.dropped_examples) == (1, 1, [reason])


def test_what_is_cut_is_counted_by_side(tokenizer):
    rows = [PromptCompletion("abcdef", "x", where="a:1"), PromptCompletion("ab", "stuvw", where="a:2")]
    _, counts = tokenise_rows(rows, tokenizer, 4, as_chat=False, every_token=False)
    assert (counts.truncated, counts.tokens_lost) == (2, 8)
    assert counts.cut == {"prompt": {"rows": 1, "tokens": 4}, "completion": {"rows": 1, "tokens": 4}}
    assert counts.truncated_examples == ["a:1: lost 4 tokens of the prompt", "a:2: lost 4 tokens of the completion"]
    assert counts.note() == "2 rows used; 2 truncated (4 tokens of 1 prompt, 4 tokens of 1 completion lost)"


def test_a_prompt_that_began_the_answer_is_refused_wherever_it_stands():
    prompt = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "Sure"}]
    answer = [{"role": "assistant", "content": "a"}]
    for form, fields in (
        ("rows", {"completion": answer}),
        ("unpaired", {"completion": answer, "label": True}),
        ("pairs", {"chosen": answer, "rejected": [{"role": "assistant", "content": "b"}]}),
        ("prompts", {}),
    ):
        with pytest.raises(ValueError, match=r"^the prompt ends with an assistant turn, allowed"):
            _parsed({"prompt": prompt, **fields}, form)
