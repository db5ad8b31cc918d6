"""search.json: which trials a search began, in their order, so that a command that is killed goes on with the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.config import fingerprint
from workbench.disk import make_folder
from workbench.experiment.definition.schema import Experiment, Search
from workbench.experiment.running.run_folder import write_json
from workbench.experiment.search.design import Setting, Space
from workbench.tracking.reader import read_sealed, sealed


@dataclass(frozen=True)
class Trial:
    """A setting that an arm was, or is to be, trained with. None: of the file's own, where it has no arms."""

    arm: str | None
    setting: Setting
    rung: int = 0
    """How far: the number of the rung where it is judged next."""

    @property
    def name(self) -> str:
        """What tells it from all others, and from itself at other rungs."""
        return fingerprint([self.arm, self.setting, self.rung])


class Journal:
    """The trials of an experiment that were begun, and those of an earlier space that are no longer part of it."""

    def __init__(self, experiment: Experiment, runs: Path) -> None:
        assert experiment.search is not None, "only a search has a journal"
        self.path = runs / experiment.name / "search.json"
        written = [Trial(**entry) for entry in (read_sealed(self.path) or {}).get("trials", [])]
        self.trials = [trial for trial in written if _belongs(trial, experiment.search)]
        self.left_out = [trial for trial in written if trial not in self.trials]

    def of_arm(self, arm: str | None, rung: int = 0) -> list[Trial]:
        """The trials of an arm that came, or are to come, to this rung, in the order in which that began."""
        return [trial for trial in self.trials if trial.arm == arm and trial.rung == rung]

    def add(self, trials: Sequence[Trial]) -> None:
        """Write that these begin. Raises StorageError when the disk fails."""
        self.trials += trials
        make_folder(self.path.parent)
        write_json(self.path, sealed({"trials": [asdict(trial) for trial in [*self.left_out, *self.trials]]}))

    def begin_anew(self) -> None:
        """Forget all trials; what add writes next takes their place."""
        self.trials, self.left_out = [], []


def _belongs(trial: Trial, search: Search) -> bool:
    space = search.spaces.get(trial.arm)
    return space is not None and trial.rung < len(search.rungs[trial.arm]) and fits(trial.setting, space)


def fits(setting: dict[str, Any], space: Space) -> bool:
    """Whether a setting lies in a space: it says the same names, each a value that may be taken."""
    return setting.keys() == space.keys() and all(space[name].holds(value) for name, value in setting.items())
