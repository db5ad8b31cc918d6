"""What a report is made of: sections of prose, tables, figures and completions, for the page and for the Markdown.

A section's module says what is shown; the templates say how. Text here is plain: both templates escape it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar


@dataclass(frozen=True)
class Cell:
    """What is written, the value it sorts by, and smaller lines below it."""

    text: str
    sort: float | str | None = None
    lines: tuple[str, ...] = ()
    tone: str = ""
    """"": plain; "muted"; "best"; "bad"."""

    @property
    def key(self) -> str:
        """The value to sort by, as text."""
        value = self.text if self.sort is None else self.sort
        if not isinstance(value, float):
            return value
        return "" if math.isnan(value) else f"{value:.12g}"


@dataclass(frozen=True)
class Table:
    """Columns are (name, unit). `plain` is the same content as flat rows, written beside the page as <name>.csv."""

    kind: ClassVar[str] = "table"
    name: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    plain: Sequence[dict[str, Any]] = ()
    label: str = ""
    """What it holds, in words, for those who do not see it; its caption's first words."""
    caption: str = ""
    """What stands below it: how it was computed."""
    broad: bool = False
    """Whether it may be wider than the text."""
    folded: str = ""
    """A summary behind which a long table is folded; empty: shown."""


@dataclass(frozen=True)
class Panel:
    """One drawing: its file name without ending, what it shows in words, and both renderings."""

    name: str
    alt: str
    svg: str
    """A whole SVG file on white."""
    inline: str
    """The drawing again, for the page: transparent, with colours as CSS variables."""
    png: bytes


@dataclass(frozen=True)
class Figure:
    """Panels under one number, captioned with what to see and how it was computed."""

    kind: ClassVar[str] = "figure"
    panels: Sequence[Panel]
    see: str
    how: str
    legend: bool = False
    """Whether colours mean the variants, so that their legend is needed."""
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Prose:
    """A paragraph; tone "" for running text, "note" for small print, "flag" for what must not be missed."""

    kind: ClassVar[str] = "prose"
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Text:
    """One completion, cut at a length; right is None where no exact match was scored."""

    text: str
    right: bool | None
    cut: bool = False
    note: str = ""
    """A small line below it, such as its rewards."""


@dataclass(frozen=True)
class Completions:
    """A row is a prompt with one completion a column; None where a column has none for it."""

    kind: ClassVar[str] = "completions"
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Text | None]]]
    label: str = "Completions"
    folded: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Facts:
    """What and its value, with a mark on those in which the runs differ."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str, bool]]
    commands: Sequence[str] = ()


Block = Prose | Bullets | Heading | Table | Figure | Completions | Facts


@dataclass
class Section:
    """One heading of the report and what stands under it, added block by block."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Its name in the page's address."""
        return slug(self.title)

    def of_group(self, name: str) -> Section:
        """Returns this section as one about a group of settings: it bears the group's name, and its files stand apart
        from those of other groups."""
        suffix = f"_group_{name.lower()}"
        blocks: list[Block] = []
        for block in self.blocks:
            if isinstance(block, Table):
                block = replace(block, name=block.name + suffix)
            elif isinstance(block, Figure):
                block = replace(block, panels=[replace(panel, name=panel.name + suffix) for panel in block.panels])
            blocks.append(block)
        return Section(f"{self.title}: group {name}", blocks)

    @property
    def tables(self) -> list[Table]:
        """Its tables, in order."""
        return [block for block in self.blocks if isinstance(block, Table)]

    @property
    def figures(self) -> list[Figure]:
        """Its figures, in order."""
        return [block for block in self.blocks if isinstance(block, Figure)]


def slug(text: str) -> str:
    """A part of a file's name or of an address: small letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
