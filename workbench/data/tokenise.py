"""Examples to token ids, and over-long rows cut by rule.

The rule: a prompt loses its beginning, but keeps up to half of max_tokens where the completion is longer than the
other half; a completion, a conversation or a text loses its end. A beginning of sequence stays. What was cut and what
was dropped is counted.
Of 10 tokens at most: a prompt of 8 and a completion of 4 keep 6 and 4, of 8 and 9 they keep 5 and 5.
Examples come and go a chunk at a time: only token ids are held of all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from workbench.data.asked import AskedPrompt, asked_prompt
from workbench.data.bad_rows import BadRows
from workbench.data.chat import render_chat, template_end
from workbench.data.conversations import Turns
from workbench.data.counts import Counts
from workbench.data.encoding import EncodedRow, TokenPair, encode_pairs, encode_rows
from workbench.data.formats import Example
from workbench.data.ragged import Ragged
from workbench.data.sets import PairSet, PromptSet, RowSet, Texts
from workbench.data.sources import shown
from workbench.data.tasks import prompt_id
from workbench.errors import DataError
from workbench.models.tokenizer import Tokenizer

CHUNK = 4096
OnKept = Callable[[Any], None]
"""What is called with the example of each row that is kept, in the order of the set's rows."""


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
    encoded = zip(prompts, tokenizer.encode_batch(texts), strict=True)
    return [tokenizer.begun(ids) if isinstance(prompt, str) and not as_chat else ids for prompt, ids in encoded]


def _prompt_text(tokenizer: Tokenizer, prompt: str | Turns, as_chat: bool) -> str:
    """What the model reads. Raises ValueError when its template refuses the turns."""
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
    on_kept: OnKept | None = None,
) -> tuple[PromptSet, Counts]:
    """Prompts for training on own samples, the same token ids as encode_prompts gives. task: what prompt ids belong to.
    A prompt longer than max_tokens loses its beginning. Rows that ask nothing go to bad, as in tokenise_rows."""
    counts, bad = Counts(), bad or BadRows()
    kept: list[AskedPrompt] = []
    prompts: list[np.ndarray] = []
    for chunk in _chunks(examples, bad):
        rows: list[tuple[str, Example, AskedPrompt, str]] = []
        for where, example in chunk:
            try:
                asked = asked_prompt(example)
                rows.append((where, example, asked, _prompt_text(tokenizer, asked.prompt, as_chat)))
            except ValueError as error:
                bad.add(where, error)
        encoded = _prompt_ids(tokenizer, [row[2].prompt for row in rows], [row[3] for row in rows], as_chat)
        for (where, example, asked, _), ids in zip(rows, encoded, strict=True):
            if not ids:
                bad.add(where, "prompt is empty, allowed at least one token to continue from")
                continue
            counts.truncate(where, {"prompt": len(ids) - max_tokens})
            counts.keep(where)
            _tell(on_kept, example)
            kept.append(asked)
            prompts.append(np.asarray(_last(tokenizer, ids, max_tokens), np.int32))
            if as_chat or not isinstance(asked.prompt, str):
                counts.chats += 1
                end = template_end(tokenizer)
                counts.ends |= {} if end is None else {end[0]: end[1]}
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
    on_kept: OnKept | None = None,
) -> tuple[RowSet, Counts]:
    """Rows for SFT; for pretraining with every_token: all is learned, and what is longer than max_tokens is split into
    several rows instead of cut, each beginning with the token that the one before ended with: it is predicted there,
    and predicts here. Rows that a chat template refuses, and conversations of which nothing is learned, go to bad;
    without one, or where it does not skip, they are a DataError that names them."""
    counts = Counts()
    ids: list[np.ndarray] = []
    labelled: list[np.ndarray] = []
    bad = bad or BadRows()
    for chunk in _chunks(examples, bad):
        for row in encode_rows(chunk, tokenizer, counts, bad, as_chat=as_chat, every_token=every_token):
            for kept, flags, lost in _cut_row(tokenizer, row, max_tokens, every_token):
                if not any(flags[1:]):
                    _nothing_learned(row, max_tokens, counts, bad)
                    continue
                counts.truncate(row.where, lost)
                counts.keep(row.where)
                ids.append(np.asarray(kept, np.int32))
                labelled.append(np.asarray(flags, bool))
                _tell(on_kept, row.example)
    bad.check()
    rows = RowSet(Ragged.from_rows(ids), Ragged.from_rows(labelled, bool).values)
    counts.tokens, counts.learned = len(rows.ids.values), int(rows.labelled.sum())
    counts.bad, counts.bad_examples = bad.count, list(bad.first)
    return rows, counts


def tokenise_pairs(
    examples: Iterable[Example | TokenPair],
    tokenizer: Tokenizer,
    max_tokens: int,
    *,
    as_chat: bool,
    bad: BadRows | None = None,
    on_kept: OnKept | None = None,
) -> tuple[PairSet, Counts]:
    """Pairs for preference optimisation; the completions without their prompt, end of sequence included. Rows that a
    chat template refuses go to bad, as in tokenise_rows."""
    counts, bad = Counts(), bad or BadRows()
    sides: tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]] = ([], [], [])
    margins: list[float] = []
    for chunk in _chunks(examples, bad):
        for pair in encode_pairs(chunk, tokenizer, counts, bad, as_chat=as_chat):
            cut, lost, reason = _cut_pair(tokenizer, pair, max_tokens)
            if reason:
                counts.drop(pair.where, reason)
                continue
            counts.truncate(pair.where, lost)
            counts.keep(pair.where)
            _tell(on_kept, pair.example)
            for side, tokens in zip(sides, cut, strict=True):
                side.append(np.asarray(tokens, np.int32))
            margins += [] if pair.margin is None else [pair.margin]
    bad.check()
    assert len(margins) in (0, len(sides[0])), "a format has a margin in every row, or in none"
    prompts, chosen_rows, rejected_rows = (Ragged.from_rows(side) for side in sides)
    pairs = PairSet(prompts, chosen_rows, rejected_rows, margins=np.array(margins, np.float32) if margins else None)
    counts.learned = len(chosen_rows.values) + len(rejected_rows.values)
    counts.tokens = counts.learned + 2 * len(prompts.values)
    counts.bad, counts.bad_examples = bad.count, list(bad.first)
    return pairs, counts


def _tell(on_kept: OnKept | None, example: Example | None) -> None:
    if on_kept is not None:
        on_kept(example)


def _cut_row(
    tokenizer: Tokenizer, row: EncodedRow, max_tokens: int, every_token: bool
) -> Iterator[tuple[list[int], list[bool], dict[str, int]]]:
    """(ids, which are learned, tokens lost by side) of what is kept of a row."""
    ids, learned = row.ids, row.learned
    if every_token:
        step = max(1, max_tokens - 1)
        for start in range(0, max(1, len(ids) - 1), step):
            kept = ids[start : start + max_tokens]
            yield kept, [True] * len(kept), {}
    elif row.prompt is None:
        yield ids[:max_tokens], learned[:max_tokens], {row.side: len(ids) - max_tokens}
    else:
        completion = len(ids) - row.prompt
        kept_prompt = _kept(row.prompt, completion, max_tokens)
        room = max_tokens - kept_prompt
        kept = [*_last(tokenizer, ids[: row.prompt], kept_prompt), *ids[row.prompt :][:room]]
        flags = [False] * kept_prompt + learned[row.prompt :][:room]
        yield kept, flags, {"prompt": row.prompt - kept_prompt, "completion": completion - room}


def _cut_pair(
    tokenizer: Tokenizer, pair: TokenPair, max_tokens: int
) -> tuple[tuple[list[int], ...], dict[str, int], str]:
    """Prompt, chosen and rejected as they are kept, tokens lost by side, and why the pair is left out, if it is."""
    prompt, chosen, rejected = pair.prompt_ids, pair.chosen_ids, pair.rejected_ids
    kept = _kept(len(prompt), max(len(chosen), len(rejected)), max_tokens)
    room = max_tokens - kept
    cut = (_last(tokenizer, prompt, kept), chosen[:room], rejected[:room])
    sides = {"chosen completion": len(chosen) - room, "rejected completion": len(rejected) - room}
    reason = ""
    if not all(cut):
        empty = [name for name, part in zip(("prompt", "chosen", "rejected"), cut, strict=True) if not part]
        reason = f"{empty[0]} has no token left"
    elif cut[1] == cut[2]:
        reason = f"chosen and rejected are the same in the {room:,} tokens that are left"
    return cut, {"prompt": len(prompt) - kept, **sides}, reason


def _kept(prompt: int, completion: int, max_tokens: int) -> int:
    """The number of tokens that are kept of a prompt; prompt and completion: their lengths."""
    return min(prompt, max(max_tokens - completion, max_tokens // 2))


def _last(tokenizer: Tokenizer, ids: list[int], number: int) -> list[int]:
    """Keeps that number of a prompt's tokens: its beginning of sequence, and its last ones."""
    if len(ids) <= number:
        return ids
    first = min(tokenizer.first_ids(ids), number)
    return ids[:first] + ids[len(ids) - number + first :]


def _nothing_learned(row: EncodedRow, max_tokens: int, counts: Counts, bad: BadRows) -> None:
    """A conversation without a learned token is a bad row unless such are skipped; other rows are counted."""
    first = row.learned.index(True) + 1 if any(row.learned) else 0
    where_it_begins = f"begins at token {first:,} and max_tokens is {max_tokens:,}" if first else "has no token"
    reason = f"nothing is learned: the part to learn {where_it_begins}"
    if row.is_chat and not bad.skip:
        bad.add(row.where, reason)
    else:
        counts.drop(row.where, reason)


def _chunks(examples: Iterable[Any], bad: BadRows) -> Iterator[list[tuple[str, Any]]]:
    """Examples with their places; none once a bad row stops the reading, though it goes on to find them all."""
    numbered = ((example.where or f"row {number}", example) for number, example in enumerate(examples, start=1))
    while chunk := list(itertools.islice(numbered, CHUNK)):
        if not bad.stops:
            yield chunk
