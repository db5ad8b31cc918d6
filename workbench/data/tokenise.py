"""Examples to token ids: prompt and completion apart, so that their boundary cannot move; over-long rows cut by rule.

The rule: a prompt loses its beginning, but keeps up to half of max_tokens where the completion is longer than the
other half; a completion, a conversation or a text loses its end. What was cut and what was dropped is counted.
Of 10 tokens at most: a prompt of 8 and a completion of 4 keep 6 and 4, of 8 and 9 they keep 5 and 5.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from workbench.data.chat import Segment, answer_segments, chat_segments, render_chat
from workbench.data.formats import Chat, Example, Preference, PromptCompletion, Text
from workbench.data.ragged import Ragged
from workbench.data.sets import PairSet, RowSet
from workbench.data.sources import shown
from workbench.errors import DataError
from workbench.models.tokenizer import Tokenizer

CHUNK = 4096


@dataclass
class Counts:
    """What became of the rows."""

    rows: int = 0
    """Rows kept."""
    tokens: int = 0
    """Tokens of the rows kept."""
    truncated: int = 0
    """Rows kept that lost tokens."""
    dropped: int = 0
    """Rows left out because nothing to learn from was left after truncation; pairs whose sides are the same then."""
    bad: int = 0
    """Rows left out because they were not valid."""
    bad_examples: list[str] = field(default_factory=list)
    """The first few of them, file:line and reason."""

    def note(self) -> str | None:
        """One sentence for a report, None when every row went in whole."""
        parts = [
            f"{number:,} {what}"
            for number, what in (
                (self.truncated, "truncated"),
                (self.dropped, "dropped with nothing left to learn from"),
                (self.bad, "skipped as invalid"),
            )
            if number
        ]
        return f"{self.rows:,} rows used; {', '.join(parts)}" if parts else None


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[str], *, as_chat: bool) -> list[list[int]]:
    """Token ids that a completion is sampled from; as_chat: the prompt is a user's turn in the model's template."""
    if as_chat:
        texts = []
        for number, prompt in enumerate(prompts, start=1):
            with _naming("prompt", number, prompt):
                texts.append(render_chat(tokenizer, [("user", prompt)], generation_prompt=True))
        encoded = tokenizer.encode_batch(texts)
    else:
        encoded = [[*tokenizer.prefix_ids, *ids] for ids in tokenizer.encode_batch(list(prompts))]
    for number, ids in enumerate(encoded, start=1):
        if not ids:
            raise DataError(f"prompt {number} is empty, allowed at least one token to continue from")
    return encoded


def tokenise_rows(
    examples: Iterable[Example], tokenizer: Tokenizer, max_tokens: int, *, as_chat: bool, every_token: bool
) -> tuple[RowSet, Counts]:
    """Rows for SFT; for pretraining with every_token: all is learned, and what is longer than max_tokens is split into
    several rows instead of cut, each beginning with the token that the one before ended with: it is predicted there,
    and predicts here. DataError names the row that a chat template refuses."""
    counts, ids, labelled = Counts(), [], []
    for pieces, is_chat, is_text in _encoded(examples, tokenizer, as_chat):
        tokens = list(itertools.chain.from_iterable(piece for piece, _ in pieces))
        learned = list(itertools.chain.from_iterable([flag] * len(piece) for piece, flag in pieces))
        if not is_chat:
            tokens, learned = [*tokens, *tokenizer.eos_ids[:1]], [*learned, *[True] * len(tokenizer.eos_ids[:1])]
        if every_token:
            learned = [True] * len(tokens)
            starts = range(0, max(1, len(tokens) - 1), max(1, max_tokens - 1))
            blocks = [(tokens[i : i + max_tokens], learned[i : i + max_tokens]) for i in starts]
        elif is_chat or is_text:
            blocks = [(tokens[:max_tokens], learned[:max_tokens])]
        else:
            start, end = _kept(len(pieces[0][0]), len(tokens) - len(pieces[0][0]), max_tokens)
            blocks = [(tokens[start:end], learned[start:end])]
        for block, flags in blocks:
            if not any(flags[1:]):
                counts.dropped += 1
                continue
            counts.truncated += len(block) < len(tokens) and not every_token
            ids.append(block)
            labelled.append(flags)
    rows = RowSet(Ragged.from_rows(ids), Ragged.from_rows(labelled, bool).values)
    counts.rows, counts.tokens = len(rows), len(rows.ids.values)
    return rows, counts


def tokenise_pairs(
    examples: Iterable[Preference], tokenizer: Tokenizer, max_tokens: int, *, as_chat: bool
) -> tuple[PairSet, Counts]:
    """Pairs for preference optimisation; the completions without their prompt, end of sequence included. DataError
    names the row that a chat template refuses."""
    counts = Counts()
    prompts: list[list[int]] = []
    sides: tuple[list[list[int]], list[list[int]]] = ([], [])
    for first, chunk in _chunks(examples):
        texts: list[str] = []
        for number, example in enumerate(chunk, start=first):
            with _naming("row", number, example.prompt):
                texts += _pair_texts(example, tokenizer, as_chat)
        encoded = tokenizer.encode_batch(texts)
        for index, example in enumerate(chunk):
            prompt, chosen, rejected = encoded[3 * index : 3 * index + 3]
            prompt = prompt if as_chat else [*tokenizer.prefix_ids, *prompt]
            if not as_chat:
                chosen = [*chosen, *tokenizer.eos_ids[: int(example.chosen_ended)]]
                rejected = [*rejected, *tokenizer.eos_ids[: int(example.rejected_ended)]]
            longest = max(len(chosen), len(rejected))
            start, end = _kept(len(prompt), longest, max_tokens)
            room = end - len(prompt)
            cut = (prompt[start:], chosen[:room], rejected[:room])
            if not all(cut) or cut[1] == cut[2]:
                counts.dropped += 1
                continue
            counts.truncated += start > 0 or longest > room
            for rows, tokens in zip((prompts, *sides), cut, strict=True):
                rows.append(tokens)
    pairs = PairSet(Ragged.from_rows(prompts), Ragged.from_rows(sides[0]), Ragged.from_rows(sides[1]))
    counts.rows, counts.tokens = len(pairs), int(pairs.lengths.sum())
    return pairs, counts


def _kept(prompt: int, completion: int, max_tokens: int) -> tuple[int, int]:
    """Start and end of what is kept of a prompt and completion of these lengths."""
    over = prompt + completion - max_tokens
    if over <= 0:
        return 0, prompt + completion
    start = prompt - min(prompt, max(max_tokens - completion, max_tokens // 2))
    return start, min(prompt + completion, start + max_tokens)


def _chunks(examples: Iterable[Example]) -> Iterator[tuple[int, list]]:
    """The number of the first, from 1, and the examples."""
    iterator, first = iter(examples), 1
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield first, chunk
        first += len(chunk)


@contextlib.contextmanager
def _naming(what: str, number: int, text: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise DataError(f"{what} {number} ({shown(text)}): {error}") from error


def _encoded(
    examples: Iterable[Example], tokenizer: Tokenizer, as_chat: bool
) -> Iterator[tuple[list[tuple[list[int], bool]], bool, bool]]:
    """Each example's pieces of (ids, learned), whether a chat template wrote them, and whether it is plain text."""
    for first, chunk in _chunks(examples):
        segments = []
        for number, example in enumerate(chunk, start=first):
            with _naming("row", number, _beginning(example)):
                segments.append(_segments(example, tokenizer, as_chat))
        encoded = iter(tokenizer.encode_batch([text for row in segments for text, _ in row]))
        for example, row in zip(chunk, segments, strict=True):
            is_chat = isinstance(example, Chat) or (as_chat and isinstance(example, PromptCompletion))
            pieces = [(next(encoded), learned) for _, learned in row]
            if not is_chat and tokenizer.prefix_ids:
                pieces[0] = ([*tokenizer.prefix_ids, *pieces[0][0]], pieces[0][1])
            yield pieces, is_chat, isinstance(example, Text)


def _beginning(example: Example) -> str:
    if isinstance(example, Chat):
        return example.messages[0][1]
    return example.text if isinstance(example, Text) else example.prompt


def _segments(example: Example, tokenizer: Tokenizer, as_chat: bool) -> list[Segment]:
    if isinstance(example, Text):
        return [(example.text, True)]
    if isinstance(example, Chat):
        return chat_segments(tokenizer, example.messages)
    assert isinstance(example, PromptCompletion), "preference pairs go to tokenise_pairs"
    if as_chat:
        return chat_segments(tokenizer, [("user", example.prompt), ("assistant", example.completion)])
    return [(example.prompt, False), (example.completion, True)]


def _pair_texts(example: Preference, tokenizer: Tokenizer, as_chat: bool) -> tuple[str, str, str]:
    if not as_chat:
        return example.prompt, example.chosen, example.rejected
    prompt, chosen = answer_segments(tokenizer, example.prompt, example.chosen, ended=example.chosen_ended)
    again, rejected = answer_segments(tokenizer, example.prompt, example.rejected, ended=example.rejected_ended)
    if again != prompt:
        raise ValueError("the chat template writes the prompt differently before another answer")
    return prompt, chosen, rejected
