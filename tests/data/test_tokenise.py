"""Token ids: a boundary that cannot move, ends that are learned, a truncation rule that is counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.formats import Preference, PromptCompletion, Text
from workbench.data.tokenise import CHUNK, Counts, encode_prompts, tokenise_pairs, tokenise_rows
from workbench.errors import DataError, ModelError


def _rows(tokenizer, *examples, max_tokens=100, every_token=False):
    """(text, learned text marked by ^) of each row, and the counts."""
    rows, counts = tokenise_rows(examples, tokenizer, max_tokens, as_chat=False, every_token=every_token)
    found = []
    for row in range(len(rows)):
        labelled = rows.labelled[rows.ids.offsets[row] : rows.ids.offsets[row + 1]]
        pieces = [tokenizer.decode([int(token)], skip_special_tokens=False) for token in rows.ids[row]]
        found.append(("".join(pieces), "".join("^" if flag else "." for flag in labelled)))
    return found, counts


def _pairs(tokenizer, *examples, max_tokens=100):
    pairs, counts = tokenise_pairs(examples, tokenizer, max_tokens, as_chat=False)
    texts = [
        tuple(tokenizer.decode(part[row].tolist(), skip_special_tokens=False)
              for part in (pairs.prompts, pairs.chosen, pairs.rejected))
        for row in range(len(pairs))
    ]  # fmt: skip
    return texts, counts


def test_the_completion_and_its_end_are_learned_and_the_prompt_is_not(tokenizer):
    assert _rows(tokenizer, PromptCompletion("ab", "cde"))[0] == [("abcde<eos>", "..^^^^")]


def test_the_beginning_of_sequence_stands_before_plain_text_alone(make_tokenizer, chatml):
    tokenizer = make_tokenizer(chatml, bos=True)
    assert _rows(tokenizer, PromptCompletion("ab", "c"), Text("ab"))[0] == [
        ("<bos>abc<eos>", "...^^"),
        ("<bos>ab<eos>", "^^^^"),
    ]
    assert _pairs(tokenizer, Preference("", "c", "d"))[0] == [("<bos>", "c<eos>", "d<eos>")]
    assert encode_prompts(tokenizer, [""], as_chat=False) == [[tokenizer.bos_id]]
    [chat] = encode_prompts(tokenizer, ["a"], as_chat=True)
    assert tokenizer.bos_id not in chat


def test_the_first_of_several_ends_is_appended(make_tokenizer):
    tokenizer = make_tokenizer(eos=("<|im_end|>", "<eos>"))
    assert _rows(tokenizer, PromptCompletion("a", "b"))[0] == [("ab<|im_end|>", ".^^")]


def test_a_tokenizer_without_an_end_appends_none(make_tokenizer):
    assert _rows(make_tokenizer(eos=()), PromptCompletion("a", "b"))[0] == [("ab", ".^")]


def test_an_end_that_is_the_pad_token_is_still_learned(make_tokenizer):
    tokenizer = make_tokenizer(pad="<eos>")
    assert tokenizer.pad_id == tokenizer.eos_ids[0]
    rows, _ = tokenise_rows([PromptCompletion("a", "b")], tokenizer, 9, as_chat=False, every_token=False)
    assert rows.labelled.tolist() == [False, True, True]


def test_a_boundary_does_not_move_where_its_sides_would_merge(tmp_path):
    """A byte-pair vocabulary with the merge a+b: ab is one token, but not across the boundary."""
    import json

    from tokenizers import Tokenizer, models

    from workbench.models.tokenizer import Tokenizer as OwnTokenizer

    vocabulary = {"<eos>": 0, "a": 1, "b": 2, "ab": 3}
    Tokenizer(models.BPE(vocabulary, [("a", "b")])).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    tokenizer = OwnTokenizer.load(tmp_path)
    assert tokenizer.encode("ab") == [3]
    rows, _ = tokenise_rows([PromptCompletion("a", "b")], tokenizer, 9, as_chat=False, every_token=False)
    assert rows.ids[0].tolist() == [1, 2, 0]
    pairs, _ = tokenise_pairs([Preference("a", "b", "ab")], tokenizer, 9, as_chat=False)
    assert (pairs.prompts[0].tolist(), pairs.chosen[0].tolist(), pairs.rejected[0].tolist()) == ([1], [2, 0], [3, 0])


RULE = [  # max_tokens, prompt, completion -> what is kept; completions bear an end (>)
    (9, "abc", "xyz", "abcxyz>"),
    (7, "abc", "xyz", "abcxyz>"),
    (6, "abc", "xyz", "abcxyz"),
    (5, "abc", "xyz", "bcxyz"),
    (4, "abc", "xyz", "bcxy"),
    (3, "abc", "xyz", "cxy"),
    (2, "abc", "xyz", "cx"),
    (1, "abc", "xyz", None),
    (4, "a", "xyzw", "axyz"),
    (4, "abcdef", "x", "efx>"),
    (2, "abcdef", "x", "fx"),
    (10, "abcdefgh", "xyz", "cdefghxyz>"),
    (10, "abcdefgh", "stuvwxyz", "defghstuvw"),
    (3, "", "xyz", "xyz"),
    (2, "", "xyz", "xy"),
    (1, "", "xyz", None),
]


@pytest.mark.parametrize(("max_tokens", "prompt", "completion", "kept"), RULE)
def test_a_prompt_loses_its_beginning_and_a_completion_its_end(tokenizer, max_tokens, prompt, completion, kept):
    found, counts = _rows(tokenizer, PromptCompletion(prompt, completion), max_tokens=max_tokens)
    assert [text.replace("<eos>", ">") for text, _ in found] == ([] if kept is None else [kept])
    whole = kept == f"{prompt}{completion}>"
    assert (counts.rows, counts.truncated, counts.dropped) == (
        len(found),
        int(bool(found) and not whole),
        int(not found),
    )


@pytest.mark.parametrize(("max_tokens", "prompt", "completion", "kept"), [case for case in RULE if case[1]])
def test_a_pair_is_cut_by_its_longer_side(tokenizer, max_tokens, prompt, completion, kept):
    found, counts = _pairs(tokenizer, Preference(prompt, completion, "q"), max_tokens=max_tokens)
    assert len(found) == (kept is not None) == counts.rows == 1 - counts.dropped
    if kept:
        left = kept.rstrip(completion + ">")
        chosen = kept.removeprefix(left)
        assert found == [(left, chosen.replace(">", "<eos>"), "q<eos>" if len(chosen) > 1 else "q")]


def test_a_pair_whose_sides_are_the_same_once_cut_is_dropped(tokenizer):
    found, counts = _pairs(tokenizer, Preference("ab", "xyz1", "xyz2"), Preference("ab", "1", "2"), max_tokens=5)
    assert found == [("ab", "1<eos>", "2<eos>")]
    assert (counts.dropped, counts.truncated) == (1, 0)


def test_a_pair_without_a_prompt_is_dropped_and_counted(tokenizer):
    assert _pairs(tokenizer, Preference("", "a", "b"))[1].dropped == 1


def test_a_completion_that_was_cut_when_sampled_bears_no_end(tokenizer):
    example = Preference("p", "a", "bb", chosen_ended=True, rejected_ended=False)
    assert _pairs(tokenizer, example)[0] == [("p", "a<eos>", "bb")]


def test_an_empty_rejected_completion_is_its_end(tokenizer):
    assert _pairs(tokenizer, Preference("p", "a", ""))[0] == [("p", "a<eos>", "<eos>")]


def test_plain_text_is_learned_whole_and_loses_its_end(tokenizer):
    assert _rows(tokenizer, Text("abc"))[0] == [("abc<eos>", "^^^^")]
    found, counts = _rows(tokenizer, Text("abcdef"), max_tokens=4)
    assert (found, counts.truncated) == ([("abcd", "^^^^")], 1)


def test_pretraining_splits_a_text_so_that_every_token_is_predicted_once(tokenizer):
    found, counts = _rows(tokenizer, Text("abcdefg"), max_tokens=4, every_token=True)
    assert [text for text, _ in found] == ["abcd", "defg", "g<eos>"]
    assert (counts.truncated, counts.dropped, counts.tokens) == (0, 0, 10)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(length=st.integers(1, 30), max_tokens=st.integers(2, 12))
def test_the_predicted_tokens_of_a_split_text_are_all_but_its_first(tokenizer, length, max_tokens):
    text = ("abcdefghijklmnopqrstuvwxyzABCD")[:length]
    rows, counts = tokenise_rows([Text(text)], tokenizer, max_tokens, as_chat=False, every_token=True)
    predicted = [token for row in range(len(rows)) for token in rows.ids[row][1:].tolist()]
    assert predicted == [*tokenizer.encode(text), *tokenizer.eos_ids][1:]
    assert rows.lengths.max() <= max_tokens
    assert counts.dropped == 0


def test_pretraining_learns_the_prompt_too(tokenizer):
    assert _rows(tokenizer, PromptCompletion("ab", "c"), every_token=True)[0] == [("abc<eos>", "^^^^")]


def test_nothing_is_left_of_rows_of_one_token(tokenizer):
    for every_token in (False, True):
        found, counts = _rows(tokenizer, Text("abc"), Text("d"), max_tokens=1, every_token=every_token)
        assert found == []
        assert counts.dropped >= 2


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    prompt=st.text("abcdefg", max_size=12),
    completion=st.text("hijklmn", min_size=1, max_size=12),
    max_tokens=st.integers(1, 30),
)
def test_what_is_kept_is_a_suffix_of_the_prompt_and_a_prefix_of_the_completion(
    tokenizer, prompt, completion, max_tokens
):
    found, counts = _rows(tokenizer, PromptCompletion(prompt, completion), max_tokens=max_tokens)
    for text, learned in found:
        text = text.replace("<eos>", ">")
        assert len(text) == min(max_tokens, len(prompt) + len(completion) + 1)
        own, rest = text[: learned.count(".")], text[learned.count(".") :]
        assert prompt.endswith(own)
        assert f"{completion}>".startswith(rest)
        assert len(own) >= min(len(prompt), max_tokens // 2)
        assert not (counts.truncated == 0 and f"{prompt}{completion}>" != text)
    assert counts.rows + counts.dropped == 1


def test_rows_keep_their_order_over_chunks(tokenizer):
    examples = [Text("ab" if index % 3 else "c") for index in range(CHUNK + 5)]
    rows, counts = tokenise_rows(examples, tokenizer, 9, as_chat=False, every_token=False)
    assert rows.lengths.tolist() == [3 if index % 3 else 2 for index in range(CHUNK + 5)]
    assert counts.rows == CHUNK + 5
    pairs, _ = tokenise_pairs(
        [Preference("p", "a" if index % 3 else "aa", "b") for index in range(CHUNK + 5)], tokenizer, 9, as_chat=False
    )
    assert pairs.chosen.lengths.tolist() == [2 if index % 3 else 3 for index in range(CHUNK + 5)]


def test_a_character_without_a_token_is_named(tokenizer):
    with pytest.raises(ModelError, match="the tokenizer has no token for 'é' in 'café'"):
        tokenise_rows([Text("café")], tokenizer, 9, as_chat=False, every_token=False)


def test_an_empty_prompt_without_a_beginning_cannot_be_continued(tokenizer):
    with pytest.raises(DataError, match="prompt 2 is empty, allowed at least one token to continue from"):
        encode_prompts(tokenizer, ["a", ""], as_chat=False)


def test_no_examples_give_no_rows(tokenizer):
    rows, counts = tokenise_rows([], tokenizer, 9, as_chat=False, every_token=False)
    pairs, _ = tokenise_pairs([], tokenizer, 9, as_chat=False)
    assert (len(rows), len(pairs), counts.tokens) == (0, 0, 0)


def test_counts_are_told_in_one_sentence():
    assert Counts(rows=5, tokens=9).note() is None
    told = Counts(rows=1_200, truncated=3, dropped=1, bad=2).note()
    assert told == "1,200 rows used; 3 truncated, 1 dropped with nothing left to learn from, 2 skipped as invalid"
