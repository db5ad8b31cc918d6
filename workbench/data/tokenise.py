"""Examples to token ids: prompt and completion apart, so that their boundary cannot move; over-long rows cut by rule.

The rule: a prompt loses its beginning, but keeps up to half of max_tokens where the completion is longer than the
other half; a completion, a conversation or a text loses its end. What was cut and what was dropped is counted.
Of 10 tokens at most: a prompt of 8 and a completion of 4 keep 6 and 4, of 8 and 9 they keep 5 and 5.
Examples come and go a chunk at a time: only token ids are held of all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.data.asked import AskedPrompt, asked_prompt
from workbench.data.bad_rows import BadRows
from workbench.data.chat import Segment, answer_segments, chat_segments, render_chat, reply_segments
from workbench.data.conversations import Turns
from workbench.data.counts import Counts
from workbench.data.formats import Chat, Example, Preference, PromptCompletion, Text, Unpaired
from workbench.data.ragged import Ragged
from workbench.data.sets import PairSet, PromptSet, RowSet, Texts
from workbench.data.sources import shown
from workbench.data.tasks import prompt_id
from workbench.errors import DataError
from workbench.models.tokenizer import Tokenizer

CHUNK = 4096


@dataclass(frozen=True)
class _Encoded:
    """One example as pieces of (ids, learned). whole: a conversation or a text, which loses its end where it is cut."""

    where: str
    pieces: list[tuple[list[int], bool]]
    is_chat: bool
    whole: bool

    @property
    def side(self) -> str:
        """What is cut of it."""
        return "conversation" if self.is_chat else "text"


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[str | Turns], *, as_chat: bool) -> list[list[int]]:
    """Token ids that a completion is sampled from; turns go through the model's template, and with as_chat a text does
    as a user's turn."""
    texts: list[str] = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            texts.append(_prompt_text(tokenizer, prompt, as_chat))
        except ValueError as error:
            last = prompt if isinstance(prompt, str) else prompt[-1][1]
            raise DataError(f"prompt {number} ({shown(last)}): {error}") from error
    encoded = _prompt_ids(tokenizer, prompts, texts, as_chat)
    if not all(encoded):
        raise DataError(f"prompt {encoded.index([]) + 1} is empty, allowed at least one token to continue from")
    return encoded


def _prompt_ids(
    tokenizer: Tokenizer, prompts: Sequence[str | Turns], texts: list[str], as_chat: bool
) -> list[list[int]]:
    """Token ids of prompts whose texts are known; what comes from a template brings its own beginning."""
    encoded = tokenizer.encode_batch(texts)
    for prompt, ids in zip(prompts, encoded, strict=True):
        if isinstance(prompt, str) and not as_chat:
            ids[:0] = tokenizer.prefix_ids
    return encoded


def _prompt_text(tokenizer: Tokenizer, prompt: str | Turns, as_chat: bool) -> str:
    """What the model reads. ValueError when its template refuses the turns."""
    if isinstance(prompt, str) and not as_chat:
        return prompt
    turns = (("user", prompt),) if isinstance(prompt, str) else prompt
    return render_chat(tokenizer, turns, generation_prompt=True)


def tokenise_prompts(
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    as_chat: bool,
    task: str | None = None,
    bad: BadRows | None = None,
) -> tuple[PromptSet, Counts]:
    """Prompts for training on own samples, the same token ids as encode_prompts gives. task: what prompt ids belong to.
    A prompt longer than max_tokens loses its beginning. Rows that ask nothing go to bad, as in tokenise_rows."""
    counts, bad = Counts(), bad or BadRows()
    kept: list[AskedPrompt] = []
    prompts: list[np.ndarray] = []
    for chunk in _chunks(examples, bad):
        rows: list[tuple[str, AskedPrompt, str]] = []
        for where, example in chunk:
            try:
                asked = asked_prompt(example)
                rows.append((where, asked, _prompt_text(tokenizer, asked.prompt, as_chat)))
            except ValueError as error:
                bad.add(where, error)
        encoded = _prompt_ids(tokenizer, [row[1].prompt for row in rows], [row[2] for row in rows], as_chat)
        for (where, asked, _), ids in zip(rows, encoded, strict=True):
            if not ids:
                bad.add(where, "prompt is empty, allowed at least one token to continue from")
                continue
            counts.truncate(where, {"prompt": len(ids) - max_tokens})
            counts.keep(where)
            kept.append(asked)
            prompts.append(np.asarray(ids[-max_tokens:], np.int32))
    bad.check()
    texts = [asked.text for asked in kept]
    found = PromptSet(
        Ragged.from_rows(prompts),
        Texts.of(texts),
        Texts.of([asked.answer for asked in kept]),
        Texts.of([prompt_id(task or "file", text) for text in texts]),
        Texts.of([asked.row_json() for asked in kept]),
    )
    counts.tokens = len(found.prompts.values)
    counts.bad, counts.bad_examples = bad.count, list(bad.first)
    return found, counts


def tokenise_rows(
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    as_chat: bool,
    every_token: bool,
    bad: BadRows | None = None,
) -> tuple[RowSet, Counts]:
    """Rows for SFT; for pretraining with every_token: all is learned, and what is longer than max_tokens is split into
    several rows instead of cut, each beginning with the token that the one before ended with: it is predicted there,
    and predicts here. Rows that a chat template refuses, and conversations of which nothing is learned, go to bad;
    without one, or where it does not skip, they are a DataError that names them."""
    counts, ids, labelled = Counts(), [], []
    bad = bad or BadRows()
    for row in _encoded(examples, tokenizer, as_chat, bad):
        tokens = np.fromiter(itertools.chain.from_iterable(piece for piece, _ in row.pieces), np.int32)
        learned = np.repeat([flag for _, flag in row.pieces], [len(piece) for piece, _ in row.pieces]).astype(bool)
        if every_token:
            learned = np.ones(len(tokens), bool)
            step = max(1, max_tokens - 1)
            spans = [(start, start + max_tokens) for start in range(0, max(1, len(tokens) - 1), step)]
        elif row.whole:
            spans = [(0, max_tokens)]
        else:
            prompt = len(row.pieces[0][0])
            spans = [_kept(prompt, len(tokens) - prompt, max_tokens)]
        for start, end in spans:
            if not learned[start:end][1:].any():
                _nothing_learned(row, learned, max_tokens, counts, bad)
                continue
            if not every_token:
                lost = len(tokens) - min(end, len(tokens))
                counts.truncate(row.where, {row.side: lost} if row.whole else {"prompt": start, "completion": lost})
            counts.keep(row.where)
            ids.append(tokens[start:end])
            labelled.append(learned[start:end])
    bad.check()
    rows = RowSet(Ragged.from_rows(ids), Ragged.from_rows(labelled, bool).values)
    counts.tokens, counts.learned = len(rows.ids.values), int(rows.labelled.sum())
    counts.bad, counts.bad_examples = bad.count, list(bad.first)
    return rows, counts


def tokenise_pairs(
    examples: Iterable[Example], tokenizer: Tokenizer, max_tokens: int, *, as_chat: bool, bad: BadRows | None = None
) -> tuple[PairSet, Counts]:
    """Pairs for preference optimisation; the completions without their prompt, end of sequence included. Rows that a
    chat template refuses go to bad, as in tokenise_rows."""
    counts, bad = Counts(), bad or BadRows()
    sides: tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]] = ([], [], [])
    for where, parts in _encoded_pairs(examples, tokenizer, as_chat, bad):
        prompt, chosen, rejected = parts
        start, end = _kept(len(prompt), max(len(chosen), len(rejected)), max_tokens)
        room = end - len(prompt)
        cut = (prompt[start:], chosen[:room], rejected[:room])
        if not all(cut) or cut[1] == cut[2]:
            empty = [name for name, part in zip(("prompt", "chosen", "rejected"), cut, strict=True) if not part]
            same = f"chosen and rejected are the same in the {room:,} tokens that are left"
            counts.drop(where, f"{empty[0]} has no token left" if empty else same)
            continue
        lost = {"chosen completion": len(chosen) - room, "rejected completion": len(rejected) - room}
        counts.truncate(where, {"prompt": start, **lost})
        counts.keep(where)
        for side, tokens in zip(sides, cut, strict=True):
            side.append(np.asarray(tokens, np.int32))
    bad.check()
    prompts, chosen_rows, rejected_rows = (Ragged.from_rows(side) for side in sides)
    pairs = PairSet(prompts, chosen_rows, rejected_rows)
    counts.learned = len(chosen_rows.values) + len(rejected_rows.values)
    counts.tokens = counts.learned + 2 * len(prompts.values)
    counts.bad, counts.bad_examples = bad.count, list(bad.first)
    return pairs, counts


def _kept(prompt: int, completion: int, max_tokens: int) -> tuple[int, int]:
    """Start and end of what is kept of a prompt and completion of these lengths."""
    over = prompt + completion - max_tokens
    if over <= 0:
        return 0, prompt + completion
    start = prompt - min(prompt, max(max_tokens - completion, max_tokens // 2))
    return start, min(prompt + completion, start + max_tokens)


def _nothing_learned(row: _Encoded, learned: np.ndarray, max_tokens: int, counts: Counts, bad: BadRows) -> None:
    """A conversation without a learned token is a bad row unless such are skipped; other rows are counted."""
    first = int(learned.argmax()) + 1 if learned.any() else 0
    where_it_begins = f"begins at token {first:,} and max_tokens is {max_tokens:,}" if first else "has no token"
    reason = f"nothing is learned: the part to learn {where_it_begins}"
    if row.is_chat and not bad.skip:
        bad.add(row.where, reason)
    else:
        counts.drop(row.where, reason)


def _chunks(examples: Iterable[Example], bad: BadRows) -> Iterator[list[tuple[str, Example]]]:
    """Examples with their places; none once a bad row stops the reading, though it goes on to find them all."""
    numbered = ((example.where or f"row {number}", example) for number, example in enumerate(examples, start=1))
    while chunk := list(itertools.islice(numbered, CHUNK)):
        if not bad.stops:
            yield chunk


def _encoded(examples: Iterable[Example], tokenizer: Tokenizer, as_chat: bool, bad: BadRows) -> Iterator[_Encoded]:
    for chunk in _chunks(examples, bad):
        rows: list[tuple[str, Example, list[Segment]]] = []
        for where, example in chunk:
            example = example.example if isinstance(example, Unpaired) else example
            try:
                rows.append((where, example, _segments(example, tokenizer, as_chat)))
            except ValueError as error:
                bad.add(where, error)
        encoded = iter(tokenizer.encode_batch([text for _, _, segments in rows for text, _ in segments]))
        for where, example, segments in rows:
            is_chat = isinstance(example, Chat) or (as_chat and isinstance(example, PromptCompletion))
            pieces = [(next(encoded), learned) for _, learned in segments]
            if not is_chat:
                pieces[0] = ([*tokenizer.prefix_ids, *pieces[0][0]], pieces[0][1])
                pieces.append((list(tokenizer.eos_ids[:1]), True))
            yield _Encoded(where, pieces, is_chat, is_chat or isinstance(example, Text))


def _segments(example: Example, tokenizer: Tokenizer, as_chat: bool) -> list[Segment]:
    if isinstance(example, Text):
        return [(example.text, True)]
    if isinstance(example, Chat):
        return chat_segments(tokenizer, example.messages, learn_from=example.learn_from, unlearned=example.unlearned)
    assert isinstance(example, PromptCompletion), "preference pairs go to tokenise_pairs"
    if as_chat:
        return chat_segments(tokenizer, [("user", example.prompt), ("assistant", example.completion)])
    return [(example.prompt, False), (example.completion, True)]


def _encoded_pairs(
    examples: Iterable[Example], tokenizer: Tokenizer, as_chat: bool, bad: BadRows
) -> Iterator[tuple[str, tuple[list[int], list[int], list[int]]]]:
    """Each pair's place and the ids of its prompt, chosen and rejected completion, ends and beginning included."""
    for chunk in _chunks(examples, bad):
        rows: list[tuple[str, Preference]] = []
        texts: list[str] = []
        for where, example in chunk:
            assert isinstance(example, Preference), "rows go to tokenise_rows"
            try:
                texts += _pair_texts(example, tokenizer, as_chat)
                rows.append((where, example))
            except ValueError as error:
                bad.add(where, error)
        encoded = iter(tokenizer.encode_batch(texts))
        for where, example in rows:
            prompt, chosen, rejected = next(encoded), next(encoded), next(encoded)
            if isinstance(example.prompt, str) and not as_chat:
                prompt = [*tokenizer.prefix_ids, *prompt]
                chosen = [*chosen, *tokenizer.eos_ids[: int(example.chosen_ended)]]
                rejected = [*rejected, *tokenizer.eos_ids[: int(example.rejected_ended)]]
            yield where, (prompt, chosen, rejected)


def _pair_texts(example: Preference, tokenizer: Tokenizer, as_chat: bool) -> tuple[str, str, str]:
    prompt, chosen, rejected = example.prompt, example.chosen, example.rejected
    if isinstance(prompt, tuple) and isinstance(chosen, tuple) and isinstance(rejected, tuple):
        before, first = reply_segments(tokenizer, prompt, chosen)
        return before, first, reply_segments(tokenizer, prompt, rejected)[1]
    assert isinstance(prompt, str), "a preference is all turns or all text"
    assert isinstance(chosen, str), "a preference is all turns or all text"
    assert isinstance(rejected, str), "a preference is all turns or all text"
    if not as_chat:
        return prompt, chosen, rejected
    before, first = answer_segments(tokenizer, prompt, chosen, ended=example.chosen_ended)
    again, second = answer_segments(tokenizer, prompt, rejected, ended=example.rejected_ended)
    if again != before:
        raise ValueError("the chat template writes the prompt differently before another answer")
    return before, first, second
