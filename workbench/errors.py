"""Everything a user can mend, each kind with the exit code of the command that meets it."""

from __future__ import annotations

from collections.abc import Sequence


def describe_error(error: BaseException) -> str:
    """Returns the first line of what an error says (of an OSError without its path), or its kind where it says
    nothing."""
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


class WorkbenchError(Exception):
    """A failure whose message says where, what was found, what is allowed and what to do."""

    exit_code = 2

    def __str__(self) -> str:
        """Returns the message, which is never empty: an error without words is told by its kind, and by what it came
        from."""
        text = super().__str__()
        if text.strip():
            return text
        cause = self.__cause__ or self.__context__
        return type(self).__name__ + (f" after {describe_error(cause)}" if cause is not None else ": it gave no reason")


class DefinitionError(WorkbenchError):
    """The experiment file, the settings or the command line cannot be used. It carries every problem found, one line
    each."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class MethodError(DefinitionError):
    """What a method's own code gave and the loop cannot take; says which hook, and what it may give."""


class DataError(WorkbenchError):
    """A data file or row cannot be used; it is named as file:line."""


class ModelError(WorkbenchError):
    """A model folder, name or adapter cannot be used."""


class CheckpointError(WorkbenchError):
    """There is no valid checkpoint, or the one that is there does not fit."""

    exit_code = 3


class StorageError(WorkbenchError):
    """The disk or the output folder fails."""

    exit_code = 4


class AlreadyRunningError(WorkbenchError):
    """Another process holds the run."""

    exit_code = 5


class DivergenceError(WorkbenchError):
    """Training diverged or its signal is dead."""

    exit_code = 6


class NonFiniteError(DivergenceError):
    """A loss or a gradient is NaN or infinite."""


class RewardError(DivergenceError):
    """A reward raised, was not finite or had the wrong count; the prompt is shown."""


class RankError(WorkbenchError):
    """A process of a distributed run died."""

    exit_code = 7


class Interrupted(WorkbenchError):
    """SIGINT or SIGTERM arrived. While training it is honoured after a checkpoint was written (`saved`)."""

    def __init__(self, signal_number: int, *, saved: bool) -> None:
        self.exit_code = 128 + signal_number
        written = "a checkpoint was written, " if saved else ""
        super().__init__(f"interrupted by signal {signal_number}; {written}the same command goes on")
