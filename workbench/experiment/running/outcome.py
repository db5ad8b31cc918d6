"""What came of a command: the exit codes of its runs, and what went wrong of those that have no folder to say so."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.interrupts import SIGNALS


@dataclass
class Outcome:
    """What came of a command."""

    codes: dict[str, int] = field(default_factory=dict)
    """Exit code by run key, of those that were tried."""
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    """State and message by key of runs that failed without a folder that says so."""
    trained: int = 0
    cached: int = 0

    @property
    def is_stopped(self) -> bool:
        """Whether a run was stopped from outside: what would be tried next depends on how it ends. One that another
        signal ended, as where memory ran out, has failed."""
        return any(code - 128 in SIGNALS for code in self.codes.values())

    @property
    def exit_code(self) -> int:
        """The highest."""
        return max(self.codes.values(), default=0)
