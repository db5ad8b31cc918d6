"""Rows that cannot be used: named all at once, or left out and counted where that is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from workbench.errors import DataError

MAX_SHOWN = 20
"""Kinds of reason that are told."""
MAX_PLACES = 5
"""Further rows of a kind whose places are told."""
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:[.,]\d+)*")
"""What differs between rows that are bad in the same way."""


@dataclass
class _Kind:
    """The rows that are bad in one way: what is told of the first, and the places of some others."""

    where: str
    reason: str
    count: int = 1
    places: list[str] = field(default_factory=list)

    def add(self, where: str) -> None:
        self.count += 1
        if len(self.places) < MAX_PLACES:
            self.places.append(where)

    def __str__(self) -> str:
        line = f"{self.where}: {self.reason}"
        if self.count == 1:
            return line
        file = self.where.rpartition(":")[0]
        places = [place.removeprefix(f"{file}:") for place in self.places]
        more = ", ..." if self.count - 1 > len(places) else ""
        return f"{line}; {self.count - 1:,} more like it, at {', '.join(places)}{more}"


@dataclass
class BadRows:
    """Collects them while rows are read and tokenised, so that one message names them all."""

    skip: bool = False
    """They are left out and counted."""
    remedy: str = "mend the rows, or set data.bad_rows=skip to leave them out, counted"
    """What to do, the last line of the message."""
    count: int = 0
    _kinds: dict[str, _Kind] = field(default_factory=dict)
    _told: int = 0
    """Rows of the kinds that are told."""

    @property
    def first(self) -> list[str]:
        """The first kinds, each "file:line: reason" of its first row, with the number of further rows like it."""
        return [str(kind) for kind in self._kinds.values()]

    @property
    def stops(self) -> bool:
        """Whether one was found that no one asked to skip: what follows is only looked at for more of them."""
        return self.count > 0 and not self.skip

    def add(self, where: str, reason: object) -> None:
        """One more."""
        self.count += 1
        name = _VALUES.sub("#", str(reason))
        if name in self._kinds:
            self._kinds[name].add(where)
        elif len(self._kinds) < MAX_SHOWN:
            self._kinds[name] = _Kind(where, str(reason))
        else:
            return
        self._told += 1

    def check(self) -> None:
        """DataError, a line for each of the first kinds, unless they are skipped."""
        if not self.stops:
            return
        more = f"\n... and {self.count - self._told:,} more bad rows" if self.count > self._told else ""
        raise DataError("\n".join(self.first) + f"{more}\n{self.remedy}")
