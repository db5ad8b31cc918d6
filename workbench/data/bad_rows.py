"""Rows that cannot be used: named all at once, or left out and counted where that is asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.errors import DataError

MAX_SHOWN = 20


@dataclass
class BadRows:
    """Collects them while rows are read and tokenised, so that one message names them all."""

    skip: bool = False
    """They are left out and counted."""
    remedy: str = "mend the rows, or set data.bad_rows=skip to leave them out, counted"
    """What to do, the last line of the message."""
    count: int = 0
    first: list[str] = field(default_factory=list)
    """The first few, "file:line: reason"."""

    @property
    def stops(self) -> bool:
        """Whether one was found that no one asked to skip: what follows is only looked at for more of them."""
        return self.count > 0 and not self.skip

    def add(self, where: str, reason: object) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < MAX_SHOWN:
            self.first.append(f"{where}: {reason}")

    def check(self) -> None:
        """DataError, a line for each of the first, unless they are skipped."""
        if not self.stops:
            return
        more = f"\n... and {self.count - MAX_SHOWN:,} more bad rows" if self.count > MAX_SHOWN else ""
        raise DataError("\n".join(self.first) + f"{more}\n{self.remedy}")
