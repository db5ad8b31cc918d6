"""Completions that are wanted or not, each by itself, as KTO takes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from workbench.data import formats
from workbench.data.bad_rows import BadRows
from workbench.data.counts import MAX_PLACES, Counts
from workbench.data.encoding import TokenPair
from workbench.data.formats import PREFERENCES, Example, Preference, Unpaired
from workbench.data.forms.base import characters_of
from workbench.data.forms.judged import JudgedRows, JudgedSet
from workbench.data.forms.pairs import PAIRS
from workbench.data.ragged import Ragged
from workbench.data.sets import PairSet, RowSet
from workbench.data.tokenise import OnKept
from workbench.data.wanted import Wanted
from workbench.errors import DataError
from workbench.models.tokenizer import Tokenizer


class UnpairedRows(JudgedRows):
    """Rows that are labelled true or false, or pairs, whose sides are one of each."""

    name = "unpaired"
    wanted = Wanted((formats.UNPAIRED, *PREFERENCES), "prompt, completion, label; prompt, chosen, rejected")
    sources = ("path", "dataset", "collect")
    sources_text = "path or dataset, of rows of prompt, completion and label or of pairs, or collect"
    example_file = "labelled.jsonl"
    value = "desirable"
    dtype = bool
    takes_pairs = True
    rows_per_pair = 2

    def judge(self, example: Unpaired) -> bool:
        return example.label

    def tokenise(
        self,
        examples: Iterable[Any],
        tokenizer: Tokenizer,
        max_tokens: int,
        *,
        as_chat: bool,
        task: str | None = None,
        bad: BadRows | None = None,
        on_kept: OnKept | None = None,
    ) -> tuple[JudgedSet, Counts]:
        """Rows as they are; pairs are cut as pairs are, and then taken apart."""
        rest = iter(examples)
        first = list(itertools.islice(rest, 1))
        whole = itertools.chain(first, rest)
        if not first or not isinstance(first[0], Preference | TokenPair):
            return super().tokenise(whole, tokenizer, max_tokens, as_chat=as_chat, task=task, bad=bad, on_kept=on_kept)

        def keep_both(pair: Any) -> None:
            if on_kept is not None:
                for _ in range(self.rows_per_pair):
                    on_kept(pair)

        pairs, counts = PAIRS.tokenise(whole, tokenizer, max_tokens, as_chat=as_chat, bad=bad, on_kept=keep_both)
        counts.rows *= 2
        counts.places = [place for place in counts.places for _ in range(2)][:MAX_PLACES]
        return JudgedSet(_apart(pairs), self.value, np.arange(counts.rows) % 2 == 0), counts

    def check(self, rows: JudgedSet, places: Sequence[str]) -> None:
        """Raises DataError where all rows are wanted, or none is."""
        _refuse_one_kind(rows.values.tolist(), places[0])

    def check_examples(self, examples: Sequence[Example]) -> None:
        labels = [example.label for example in examples if isinstance(example, Unpaired)]
        if labels and len(labels) == len(examples):
            _refuse_one_kind(labels, examples[0].where)

    def row_characters(self, example: Example) -> tuple[int, ...]:
        """Two rows of a pair, each of which has the prompt."""
        if not isinstance(example, Preference):
            return super().row_characters(example)
        sides = (example.chosen, example.rejected)
        return tuple(characters_of(example.prompt) + characters_of(side) + 1 for side in sides)


def _refuse_one_kind(labels: Sequence[bool], place: str) -> None:
    """Raises DataError where all rows are wanted, or none is. place: of the first."""
    if all(labels) or not any(labels):
        label = "true" if any(labels) else "false"
        raise DataError(
            f"{place}: label is {label} here and in all {len(labels):,} rows, allowed rows of both kinds: from one "
            "kind alone nothing tells better from worse"
        )


def _apart(pairs: PairSet) -> RowSet:
    """Two rows of each pair, the chosen completion first."""
    texts, learned = [], []
    for row in range(len(pairs)):
        prompt = pairs.prompts[row]
        for completion in (pairs.chosen[row], pairs.rejected[row]):
            texts.append(np.concatenate([prompt, completion]))
            learned.append(np.repeat([False, True], [len(prompt), len(completion)]))
    return RowSet(Ragged.from_rows(texts), Ragged.from_rows(learned, bool).values)


UNPAIRED = UnpairedRows()
