"""Examples as token ids: each text or rendered conversation encoded whole, then cut into what is read and what is
learned; with its beginning and end of sequence, once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workbench.data.bad_rows import BadRows
from workbench.data.chat import Exchange, exchange_of, exchanges, render_chat, template_end
from workbench.data.conversations import Turn
from workbench.data.counts import Counts
from workbench.data.formats import Chat, Example, Judged, Preference, PromptCompletion, Text
from workbench.data.whole import Cut, cut_whole, shared
from workbench.errors import ModelError
from workbench.models.tokenizer import Tokenizer

Places = list[tuple[str, Example]]
"""Examples with where they come from."""


@dataclass
class EncodedRow:
    """ids and which of them are learned. prompt: how many of the first are a prompt, which loses its beginning where
    the row is too long; None: the row is a whole, which loses its end."""

    where: str
    ids: list[int]
    learned: list[bool]
    prompt: int | None = None
    is_chat: bool = False
    example: Example | None = None
    """What it was made of."""

    @property
    def side(self) -> str:
        """What is cut of a whole."""
        return "conversation" if self.is_chat else "text"


@dataclass(frozen=True)
class TokenPair:
    """A pair that was sampled, as the token ids that were: text would not always give them again."""

    where: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    prompt: str = ""
    """The text of the prompt."""
    margin: float | None = None
    """How much better the chosen completion is, where the data say so."""
    example: Preference | None = None
    """What it was made of, where that is text."""


def encode_rows(
    places: Places, tokenizer: Tokenizer, counts: Counts, bad: BadRows, *, as_chat: bool, every_token: bool
) -> Iterator[EncodedRow]:
    """Rows to learn from, in the examples' order; a conversation gives one, or several where the template writes
    earlier turns otherwise before later ones. What a chat template refuses goes to bad."""
    asked: list[tuple[str, Example, list[Exchange] | list[tuple[str, str]]]] = []
    for where, given in places:
        try:
            asked.append((where, given, _parts(tokenizer, _unjudged(given), as_chat, every_token)))
        except ValueError as error:
            bad.add(where, error)
    parts = [_texts(part) for _, _, found in asked for part in found]
    cuts = iter(cut_whole(tokenizer, parts))
    for where, given, found in asked:
        own, example = [next(cuts) for _ in found], _unjudged(given)
        if isinstance(example, Text | PromptCompletion) and not (as_chat and isinstance(example, PromptCompletion)):
            rows = [_plain_row(where, example, own[0], tokenizer, counts)]
        elif every_token:
            counts.chats += 1
            rows = [EncodedRow(where, own[0].after, [True] * len(own[0].after), is_chat=True)]
        else:
            told = [part for part in found if isinstance(part, Exchange)]
            rows = _conversation(where, told, own, tokenizer, counts, bad)
        for row in rows:
            row.example = given
            yield row


def encode_pairs(
    places: Sequence[tuple[str, Example | TokenPair]],
    tokenizer: Tokenizer,
    counts: Counts,
    bad: BadRows,
    *,
    as_chat: bool,
) -> Iterator[TokenPair]:
    """Each pair's prompt, chosen and rejected completion, beginning and ends included."""
    rows: list[tuple[str, Preference | TokenPair, tuple[Exchange, Exchange] | None]] = []
    for where, example in places:
        if isinstance(example, TokenPair):
            rows.append((where, example, None))
            continue
        assert isinstance(example, Preference), "rows go to encode_rows"
        try:
            rows.append((where, example, _pair(tokenizer, example, as_chat)))
        except ValueError as error:
            bad.add(where, error)
    cuts = iter(cut_whole(tokenizer, [_texts(part) for _, _, pair in rows for part in pair or ()]))
    for where, example, pair in rows:
        if isinstance(example, TokenPair) or pair is None:
            assert isinstance(example, TokenPair), "every other example has two texts"
            yield example
            continue
        sides = [next(cuts), next(cuts)]
        ends = [example.chosen_ended, example.rejected_ended]
        prompt, answers = sides[0].before, [side.after for side in sides]
        if isinstance(example.prompt, str) and not as_chat:
            counts.endless |= not tokenizer.eos_ids
            prompt = tokenizer.begun(prompt)
            answers = [tokenizer.ended(ids) if end else ids for ids, end in zip(answers, ends, strict=True)]
        else:
            counts.chats += 1
            counts.dated |= pair[0].dated
            counts.endless |= not all(_has_end(tokenizer, ids, counts) for ids in itertools.compress(answers, ends))
        counts.spanned += any(side.spanned for side in sides)
        yield TokenPair(where, prompt, answers[0], answers[1], margin=example.margin, example=example)


def _unjudged(example: Example) -> Example:
    return example.example if isinstance(example, Judged) else example


def _texts(part: Exchange | tuple[str, str]) -> tuple[str, str]:
    return (part.prompt, part.answer) if isinstance(part, Exchange) else part


def _parts(
    tokenizer: Tokenizer, example: Example, as_chat: bool, every_token: bool
) -> list[Exchange] | list[tuple[str, str]]:
    """What is encoded of an example: (prompt, what follows) each."""
    if isinstance(example, Text):
        return [("", example.text)]
    if isinstance(example, PromptCompletion):
        if not as_chat:
            return [(example.prompt, example.completion)]
        example = Chat((("user", example.prompt), ("assistant", example.completion)))
    assert isinstance(example, Chat), "preference pairs go to encode_pairs"
    if every_token:
        last = max(index for index, turn in enumerate(example.messages) if turn[0] == "assistant")
        return [("", render_chat(tokenizer, example.messages[: last + 1]))]
    return exchanges(tokenizer, example.messages, learn_from=example.learn_from, unlearned=example.unlearned)


def _plain_row(
    where: str, example: Text | PromptCompletion, cut: Cut, tokenizer: Tokenizer, counts: Counts
) -> EncodedRow:
    counts.endless |= not tokenizer.eos_ids
    after = tokenizer.ended(cut.after)
    counts.spanned += cut.spanned
    if isinstance(example, Text):
        ids = tokenizer.begun(after)
        return EncodedRow(where, ids, [True] * len(ids))
    before = tokenizer.begun(cut.before)
    return EncodedRow(where, before + after, [False] * len(before) + [True] * len(after), prompt=len(before))


def _conversation(
    where: str, told: list[Exchange], cuts: list[Cut], tokenizer: Tokenizer, counts: Counts, bad: BadRows
) -> list[EncodedRow]:
    """One row while each prompt goes on from the row so far, token by token; else one more."""
    rows: list[EncodedRow] = []
    for exchange, cut in zip(told, cuts, strict=True):
        counts.dated |= exchange.dated
        counts.spanned += cut.spanned
        learned = _marked(tokenizer, exchange, cut)
        _check_end(tokenizer, [i for i, flag in zip(cut.after, learned, strict=True) if flag] or cut.after, counts)
        row = rows[-1] if rows else EncodedRow(where, [], [], is_chat=True)
        if not rows or cut.before[: len(row.ids)] != row.ids:
            row = EncodedRow(where, [], [], is_chat=True)
            rows.append(row)
        row.learned += [False] * (len(cut.before) - len(row.ids)) + learned
        row.ids = cut.before + cut.after
    if not rows:
        bad.add(where, "nothing is learned: no assistant turn of it is")
        return []
    counts.chats += 1
    counts.divided += len(rows) > 1
    return rows


def _marked(tokenizer: Tokenizer, exchange: Exchange, cut: Cut) -> list[bool]:
    """Which ids of the answer are learned: all, or those that the template marks as the assistant's."""
    if exchange.marked is None:
        return [True] * len(cut.after)
    learned = [False] * len(cut.after)
    for start, end in exchange.marked:
        first, last = (_reached(tokenizer, exchange, cut, place) for place in (start, end))
        learned[first:last] = [True] * (last - first)
    return learned


def _reached(tokenizer: Tokenizer, exchange: Exchange, cut: Cut, place: int) -> int:
    """How many ids of the answer lie before a place in its text."""
    if place >= len(exchange.answer):
        return len(cut.after)
    [part] = cut_whole(tokenizer, [(exchange.prompt, exchange.answer[:place])])
    return shared(part.after, cut.after)


def _pair(tokenizer: Tokenizer, example: Preference, as_chat: bool) -> tuple[Exchange, Exchange]:
    prompt, chosen, rejected = example.prompt, example.chosen, example.rejected
    if isinstance(prompt, str) and not as_chat:
        assert isinstance(chosen, str), "a preference is all turns or all text"
        assert isinstance(rejected, str), "a preference is all turns or all text"
        return Exchange(prompt, chosen), Exchange(prompt, rejected)
    turns: tuple[Turn, ...] = (("user", prompt),) if isinstance(prompt, str) else prompt
    first, second = (
        exchange_of(tokenizer, turns, (("assistant", side),) if isinstance(side, str) else side, ended=ended)
        for side, ended in ((chosen, example.chosen_ended), (rejected, example.rejected_ended))
    )
    return first, second


def _has_end(tokenizer: Tokenizer, ids: list[int], counts: Counts) -> bool:
    """Whether sampling would stop in an answer: at an end that the model's files name, or at the template's own."""
    if any(index in tokenizer.eos_ids for index in ids):
        return True
    end = template_end(tokenizer)
    if end is None or end[1] not in ids:
        return False
    counts.ends[end[0]] = end[1]
    return True


def _check_end(tokenizer: Tokenizer, ids: list[int], counts: Counts) -> None:
    """Raises ModelError where an answer has no end, so that a model that learned it would never stop."""
    if _has_end(tokenizer, ids, counts):
        return
    shown = tokenizer.decode(ids[-3:], skip_special_tokens=False)
    raise ModelError(
        f"{tokenizer.name}: the chat template ends an answer with {shown!r}, in which there is no end of sequence "
        "of the model, so its answers would never end; have the template write one, name it in tokenizer_config.json "
        "(eos_token), or make the end that it writes a token (model.add_tokens)"
    )
