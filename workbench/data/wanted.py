"""Which rows a reader takes of a file, and which of the known formats a row is of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.data import formats
from workbench.data.fields import listed, renamed
from workbench.data.formats import FORMATS, PREFERENCES, ROW_FORMATS, SIDES, Format

ONE_ANSWER = "; columns: {completion: answer} learns the answer as the completion, where it is text"
ONE_SIDE = dict.fromkeys(PREFERENCES, "; columns: {completion: chosen} takes one side of pairs")
EVERY_COMPLETION = {formats.UNPAIRED: "; to learn from every completion, remove the column label"}


@dataclass(frozen=True)
class Wanted:
    """The formats that serve a reader; where a row is of several of them, the first of these counts."""

    formats: tuple[Format, ...]
    fields: str
    """Fields of such rows, for messages."""
    hints: Mapping[Format, str] = field(default_factory=dict, compare=False)
    """How rows of other formats can be taken all the same."""
    keeps_columns: bool = False
    """Whether examples keep the row's own columns, which rewards are given."""


PAIRS = Wanted(PREFERENCES, "prompt, chosen, rejected")
PAIRS_WITH_MARGINS = Wanted(
    (*formats.WITH_MARGINS, *PREFERENCES), "prompt, chosen, rejected, and margin where it is known"
)
HELD_OUT = Wanted(
    (*ROW_FORMATS, formats.PROMPT_ANSWER),
    "text; prompt, completion; prompt, answer; messages",
    ONE_SIDE | EVERY_COMPLETION,
)
"""Held-out rows, which are completed and checked, and those of them with a completion also scored."""


class NoFormatError(ValueError):
    """Says that a row's fields are of no format."""

    def __init__(self, names: list[str], allowed: str) -> None:
        super().__init__(f"has the fields {listed(names)}, allowed {allowed}")
        self.names, self.allowed = names, allowed


def format_of(fields: Mapping[str, Any], wanted: Wanted) -> Format:
    """The format that a row is of, a wanted one where it is of several. NoFormatError says what is allowed."""
    found = [known for known in (*wanted.formats, *FORMATS) if known.holds(fields)]
    if not found:
        raise NoFormatError(list(fields), "; ".join(", ".join(sorted(known.needed)) for known in wanted.formats))
    return next((known for known in found if known.alone), found[0])


def side_of(columns: Mapping[str, str], fields: Mapping[str, Any], wanted: Wanted) -> str | None:
    """chosen or rejected, where the columns take that side of a pair as the completion and the pair must be read to
    tell its prompt; None where every field can be read under its name."""
    taken = columns.get("completion")
    if taken is None or not set(PREFERENCES).isdisjoint(wanted.formats):
        return None
    pair = renamed(fields, {name: column for name, column in columns.items() if name != "completion"})
    side = next((side for side in SIDES if taken in (side, columns.get(side))), None)
    if side is None or not set(SIDES) <= pair.keys():
        return None
    return side if "prompt" not in pair or isinstance(pair["prompt"], list) != isinstance(pair[side], list) else None
