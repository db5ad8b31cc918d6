"""Everything a user can mend, each kind with the exit code of the command that meets it."""

from __future__ import annotations

from collections.abc import Sequence


def describe_error(error: BaseException) -> str:
    """The first line of what an error says, an OSError's without its path; its kind where it says nothing."""
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


class WorkbenchError(Exception):
    """A failure whose message says where, what was found, what is allowed and what to do."""

    exit_code = 2

    def __str__(self) -> str:
        """Never empty: what has no words of its own is told by its kind, and that of what it came from."""
        text = super().__str__()
        if text.strip():
            return text
        cause = self.__cause__ or self.__context__
        return type(self).__name__ + (f" after {describe_error(cause)}" if cause is not None else ": it gave no reason")


class DefinitionError(WorkbenchError):
    """Experiment file, settings or command line. Carries every problem found, one line each."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(WorkbenchError):
    """A data file or row, named as file:line."""


class ModelError(WorkbenchError):
    """A model folder, name or adapter that cannot be used."""


class CheckpointError(WorkbenchError):
    """No valid checkpoint, or one that does not fit."""

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
    """NaN or infinity in a loss or gradient."""


class RewardError(DivergenceError):
    """A reward that raised, was not finite or had the wrong count; the prompt is shown."""


class RankError(WorkbenchError):
    """A process of a distributed run died."""

    exit_code = 7


class Interrupted(WorkbenchError):
    """SIGINT or SIGTERM. While training it is honoured after a checkpoint was written (`saved`)."""

    def __init__(self, signal_number: int, *, saved: bool) -> None:
        self.exit_code = 128 + signal_number
        written = "a checkpoint was written, " if saved else ""
        super().__init__(f"interrupted by signal {signal_number}; {written}the same command goes on")
