"""Texts of a prompt and what follows it, encoded whole and then cut: pieces encoded apart would each bear the space
that many tokenizers put before a text.

The rule: a prompt's ids are always those of the prompt alone, which sampling goes on from. What follows has the ids
that the whole text has behind them. Where the whole does not begin with the prompt's ids, for a token of it spans the
boundary, what follows is encoded as a continuation of the prompt: other ids of the same text. That is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workbench.errors import ModelError
from workbench.models.tokenizer import Tokenizer

ANCHORS = ("\n", ":", "1", "a", "A", ".", " ")
"""Texts that a continuation is encoded behind, one after the other, until no token spans the boundary."""


@dataclass(frozen=True)
class Cut:
    """Token ids of both parts. spanned: a token of the whole text spans their boundary."""

    before: list[int]
    after: list[int]
    spanned: bool = False


def cut_whole(tokenizer: Tokenizer, parts: Sequence[tuple[str, str]]) -> list[Cut]:
    """Cuts texts that were encoded whole. parts: pairs (before, after), each pair one text."""
    texts = dict.fromkeys(text for before, after in parts for text in (before, before + after))
    ids = dict(zip(texts, tokenizer.encode_batch(list(texts)), strict=True))
    return [_cut(tokenizer, before, after, ids[before], ids[before + after]) for before, after in parts]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _cut(tokenizer: Tokenizer, before: str, after: str, first: list[int], whole: list[int]) -> Cut:
    if whole[: len(first)] == first and (len(whole) > len(first) or not after.strip()):
        return Cut(first, whole[len(first) :])
    wanted = _text(tokenizer, whole)
    found = [ids for ids in _continuations(tokenizer, before, after, whole) if ids]
    right = (ids for ids in found if _text(tokenizer, first + ids) == wanted)
    return Cut(first, next(right, found[-1] if found else []), spanned=True)


def _continuations(tokenizer: Tokenizer, before: str, after: str, whole: list[int]) -> Iterator[list[int]]:
    """Ids that may stand for the second text behind the first, the last one its own alone."""
    _, places = tokenizer.encode_with_places(before + after)
    behind = [index for index, (start, _) in enumerate(places) if start >= len(before)]
    if behind:
        yield whole[behind[0] :]
    for anchor in ANCHORS:
        try:
            own, both = tokenizer.encode_batch([anchor, anchor + after])
        except ModelError:  # a tokenizer without a token for the anchor
            continue
        if both[: len(own)] == own:
            yield both[len(own) :]
    yield tokenizer.encode(after)


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False)
