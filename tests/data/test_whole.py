"""Prompt and completion are encoded whole and then cut: the ids are those of transformers and TRL, of every kind of
tokenizer, and a prompt has the ids that it is sampled from."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.families import KINDS, SPECIAL, TEMPLATES, write_tokenizer
from workbench.data.formats import Chat, Preference, PromptCompletion, Text
from workbench.data.tokenise import encode_prompts, tokenise_pairs, tokenise_rows
from workbench.data.whole import cut_whole
from workbench.models.tokenizer import Tokenizer

PLAIN = [("2+2=", "4"), ("what is it? ", "the answer"), ("q:", " 12 he"), ("caf\u00e9 ", "\u00e9t\u00e9"), ("", "4")]
TURNS = (("user", "2+2?"), ("assistant", "the 4"), ("user", "so?"), ("assistant", "an 12"))
TALKS = [(kind, name) for kind in KINDS for name in TEMPLATES if kind != "word piece"]


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    def make(kind, **settings):
        return Tokenizer.load(write_tokenizer(tmp_path_factory.mktemp("whole") / "t", kind, **settings))

    return make


def theirs(tokenizer):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(tokenizer.name)


def rows_of(tokenizer, *examples, as_chat=False):
    rows, counts = tokenise_rows(examples, tokenizer, 10_000, as_chat=as_chat, every_token=False)
    flags = [rows.labelled[a:b].tolist() for a, b in zip(rows.ids.offsets, rows.ids.offsets[1:], strict=False)]
    return [(rows.ids[row].tolist(), flags[row]) for row in range(len(rows))], counts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bos", [False, True])
def test_prompt_and_completion_are_the_ids_of_the_whole_text(make, kind, bos):
    """As TRL makes them: the prompt, and prompt and completion, each whole; the completion is what the second adds."""
    tokenizer = make(kind, bos=bos)
    other = theirs(tokenizer)
    for prompt, completion in PLAIN:
        [(ids, learned)], counts = rows_of(tokenizer, PromptCompletion(prompt, completion))
        whole = other(f"{prompt}{completion}</s>").input_ids
        first = other(prompt).input_ids
        if whole[: len(first)] == first:
            assert (ids, counts.spanned) == (whole, 0)
            assert learned == [False] * len(first) + [True] * (len(whole) - len(first))
        assert ids[: learned.index(True)] == first
        if first:
            assert encode_prompts(tokenizer, [prompt], as_chat=False) == [first]


def test_a_completion_bears_no_space_of_its_own(make):
    tokenizer = make("sentencepiece")
    [(ids, _)], _ = rows_of(tokenizer, PromptCompletion("2+2-", "4"))
    assert [tokenizer.token_text(index) for index in ids[-2:]] == ["4", "</s>"]
    pairs, _ = tokenise_pairs([Preference("2+2-", "4", "1")], tokenizer, 99, as_chat=False)
    assert [tokenizer.token_text(index) for index in pairs.chosen[0].tolist()] == ["4", "</s>"]
    assert pairs.prompts[0].tolist() == encode_prompts(tokenizer, ["2+2-"], as_chat=False)[0]


@pytest.mark.parametrize(
    ("kind", "prompt", "completion", "own"),
    [
        ("sentencepiece", "2+2=", "4", ["4"]),
        ("byte level", "2+2=", "4 a", ["4", "\u0120a"]),
        ("unigram", "abc", "d", ["d"]),
        ("byte level", "caf", "\u00e9", ["\u00c3\u00a9"]),
    ],
)
def test_a_token_over_the_boundary_is_divided_there_and_counted(make, kind, prompt, completion, own):
    """The prompt keeps the ids that it is sampled from; what follows says the same text in other ids."""
    tokenizer = make(kind)
    [cut] = cut_whole(tokenizer, [(prompt, completion)])
    assert cut.before == tokenizer.encode(prompt)
    assert [tokenizer.token_text(index) for index in cut.after] == own
    _, counts = rows_of(tokenizer, PromptCompletion(prompt, completion))
    assert counts.spanned == cut.spanned == (tokenizer.encode(prompt + completion) != cut.before + cut.after)
    if cut.spanned:
        assert counts.note() == "1 time a token would span the end of the prompt, and is divided there"


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    prompt=st.text("ab he=\n4\u00e9\u0301\u2460 .", min_size=1, max_size=8),
    completion=st.text("ab he=\n4\u00e9\u0301\u2460 .", min_size=1, max_size=8),
    kind=st.sampled_from([kind for kind in KINDS if kind != "word piece"]),
)
def test_what_is_cut_says_the_whole_text_behind_the_ids_of_the_prompt(make, prompt, completion, kind):
    tokenizer = make(kind)
    [cut] = cut_whole(tokenizer, [(prompt, completion)])
    assert cut.before == tokenizer.encode(prompt)
    whole = tokenizer.encode(prompt + completion)
    if tokenizer.token_id("<unk>") in whole:
        return  # which says nothing of the text
    assert tokenizer.decode(cut.before + cut.after, False) == tokenizer.decode(whole, False)
    assert cut.spanned or cut.before + cut.after == whole


@pytest.mark.parametrize(("kind", "name"), TALKS)
def test_every_answer_is_learned_behind_the_ids_that_it_is_asked_with(make, kind, name):
    """And what is written of a conversation that no template rewrites is what transformers makes of it."""
    tokenizer = make(kind, template=TEMPLATES[name], bos=True)
    rows, counts = rows_of(tokenizer, Chat(TURNS))
    other = theirs(tokenizer)
    # The day is fixed here.
    other.chat_template = other.chat_template.replace('strftime_now("%d %b %Y")', '"26 Jul 2024"')
    for index in (1, 3):
        [asked] = encode_prompts(tokenizer, [TURNS[:index]], as_chat=False)
        messages = [{"role": role, "content": content} for role, content in TURNS[:index]]
        assert asked == other.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        found = [(ids, flags) for ids, flags in rows if ids[: len(asked)] == asked and flags[len(asked)]]
        assert len(found) == 1
        ids, flags = found[0]
        answer = ids[len(asked) : len(asked) + [*flags[len(asked) :], False].index(False)]
        assert TURNS[index][1] in tokenizer.decode(answer, False)
        assert any(end in answer for end in (*tokenizer.eos_ids, *counts.ends.values()))
    if len(rows) == 1 and not counts.spanned:
        messages = [{"role": role, "content": content} for role, content in TURNS]
        assert rows[0][0] == other.apply_chat_template(messages)["input_ids"]
    assert (len(rows) == 2) == (name in ("qwen3", "r1")) or counts.spanned


def test_a_pair_in_turns_has_the_ids_of_its_whole_conversations(make):
    tokenizer = make("sentencepiece", template=TEMPLATES["mistral"])
    example = Preference(TURNS[:3], (("assistant", "the 4"),), (("assistant", "an 12"),))
    pairs, _ = tokenise_pairs([example], tokenizer, 999, as_chat=False)
    for part, answer in ((pairs.chosen, "the 4"), (pairs.rejected, "an 12")):
        turns = [*TURNS[:3], ("assistant", answer)]
        messages = [{"role": role, "content": content} for role, content in turns]
        whole = theirs(tokenizer).apply_chat_template(messages)["input_ids"]
        assert pairs.prompts[0].tolist() + part[0].tolist() == whole


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_that_the_text_has_are_not_doubled(make, kind):
    tokenizer = make(kind, bos=True)
    begin, end = tokenizer.token_id("<s>"), tokenizer.token_id("</s>")
    for example in (PromptCompletion("<s>he", "4</s>"), Text("<s>he 4</s>"), PromptCompletion("he", "4")):
        [(ids, _)], _ = rows_of(tokenizer, example)
        assert (ids[0], ids[-1]) == (begin, end)
        assert (ids.count(begin), ids.count(end)) == (1, 1)
    assert encode_prompts(tokenizer, ["<s>he"], as_chat=False) == encode_prompts(tokenizer, ["he"], as_chat=False) or (
        kind == "sentencepiece"
    )


def test_a_prompt_that_is_cut_keeps_its_beginning(make):
    tokenizer = make("byte level", bos=True, template=TEMPLATES["gemma"])
    rows, counts = tokenise_rows([PromptCompletion("abcdefgh", "xy")], tokenizer, 8, as_chat=False, every_token=False)
    assert tokenizer.decode(rows.ids[0].tolist(), False) == "<s>efghxy</s>"
    assert counts.cut == {"prompt": {"rows": 1, "tokens": 4}}
    pairs, _ = tokenise_pairs([Preference("abcdefgh", "x", "y")], tokenizer, 8, as_chat=True)
    assert pairs.prompts[0].tolist()[0] == tokenizer.token_id("<s>")


def test_every_special_token_is_one_id(make):
    for kind in KINDS:
        tokenizer = make(kind)
        assert [tokenizer.encode(token) for token in SPECIAL] == [[tokenizer.token_id(token)] for token in SPECIAL]
