"""Preference pairs: a prompt with a better and a worse completion."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from workbench.data.bad_rows import BadRows
from workbench.data.counts import Counts
from workbench.data.encoding import TokenPair
from workbench.data.formats import Example, Preference
from workbench.data.forms.base import DataForm, characters_of
from workbench.data.forms.rows import ROWS
from workbench.data.sets import PairSet
from workbench.data.tokenise import OnKept, tokenise_pairs
from workbench.data.wanted import PAIRS as PAIRS_WANTED
from workbench.data.wanted import PAIRS_WITH_MARGINS as MARGINS_WANTED
from workbench.models.tokenizer import Tokenizer


class Pairs(DataForm):
    """Pairs, with the log-probabilities of a reference where a method needs them."""

    name = "pairs"
    unit = "pair"
    wanted = PAIRS_WANTED
    sources = ("path", "dataset", "collect")
    sources_text = "path to a preference file, or collect: {task: ...} to make pairs"
    example_file = "pairs.jsonl"
    takes_reference = True
    has_pair_accuracy = True
    takes_pairs = True
    num_completions = 2
    record_bytes = 650
    length_note = "a prompt with its longer completion"
    tokens_note = "prompts twice"

    @property
    def held_out_form(self) -> DataForm:
        return ROWS

    def tokenise(
        self,
        examples: Iterable[Example | TokenPair],
        tokenizer: Tokenizer,
        max_tokens: int,
        *,
        as_chat: bool,
        task: str | None = None,
        bad: BadRows | None = None,
        on_kept: OnKept | None = None,
    ) -> tuple[PairSet, Counts]:
        """Pairs that were collected come as the token ids that were sampled."""
        return tokenise_pairs(examples, tokenizer, max_tokens, as_chat=as_chat, bad=bad, on_kept=on_kept)

    def load(self, path: Path, reference: Path | None = None) -> PairSet:
        pairs = PairSet.load(path)
        return pairs if reference is None else pairs.with_reference(reference)

    def num_characters(self, example: Example) -> int:
        assert isinstance(example, Preference), "readers give no other examples as pairs"
        return sum(map(characters_of, (example.prompt, example.chosen, example.rejected))) + 2

    def longest_text(self, example: Example) -> int:
        assert isinstance(example, Preference), "readers give no other examples as pairs"
        longer = max(characters_of(example.chosen), characters_of(example.rejected))
        return characters_of(example.prompt) + longer + 1


PAIRS = Pairs()


class PairsWithMargins(Pairs):
    """Pairs of which the data may say by how much the chosen completion is better."""

    name = "pairs_with_margins"
    wanted = MARGINS_WANTED


PAIRS_WITH_MARGINS = PairsWithMargins()
