"""search.json: which trials a search began, in their order, so that a command that is killed goes on with the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workbench.config import fingerprint
from workbench.disk import make_folder
from workbench.experiment.definition.schema import Experiment, Search
from workbench.experiment.running.run_folder import write_json
from workbench.experiment.search.design import Setting, Space
from workbench.experiment.search.settings import Pause
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
    """The trials of an experiment that were begun, and entries of an earlier search that are no longer part of it."""

    def __init__(self, experiment: Experiment, runs: Path) -> None:
        assert experiment.search is not None, "only a search has a journal"
        self.path, self.search = runs / experiment.name / "search.json", experiment.search
        self.trials: list[Trial] = []
        self.left_out: list[dict[str, Any]] = []
        for entry in (read_sealed(self.path) or {}).get("trials", []):
            trial = _read(entry, self.search)
            if trial is not None:
                self.trials.append(trial)
            else:
                self.left_out.append(entry)

    @property
    def num_outside(self) -> int:
        """How many trials were begun that are no longer part of the space."""
        return sum(not entry.get("rung") for entry in self.left_out)

    def of_arm(self, arm: str | None, rung: int = 0) -> list[Trial]:
        """The trials of an arm that came, or are to come, to this rung, in the order in which that began."""
        return [trial for trial in self.trials if trial.arm == arm and trial.rung == rung]

    def add(self, trials: Sequence[Trial]) -> None:
        """Write that these begin. Raises StorageError when the disk fails."""
        self.trials += trials
        make_folder(self.path.parent)
        written = [asdict(trial) | self._until(trial) for trial in self.trials]
        write_json(self.path, sealed({"trials": [*self.left_out, *written]}))

    def _until(self, trial: Trial) -> dict[str, Any]:
        """Where a trial that went on is judged next: a rung's number means another place once the halving changes."""
        pause = self.search.rungs[trial.arm][trial.rung]
        return {"until": asdict(pause) if pause is not None else None} if trial.rung else {}

    def begin_anew(self) -> None:
        """Forget all trials; what add writes next takes their place."""
        self.trials, self.left_out = [], []


def _read(entry: dict[str, Any], search: Search) -> Trial | None:
    """The trial of an entry; None where the space holds it no longer, or it went on to where nothing is judged now."""
    trial = Trial(entry["arm"], entry["setting"], entry.get("rung", 0))
    space = search.spaces.get(trial.arm)
    if space is None or not fits(trial.setting, space):
        return None
    rungs = search.rungs[trial.arm]
    if "until" in entry:
        pause = Pause(**entry["until"]) if entry["until"] is not None else None
        further = [rung for rung in range(1, len(rungs)) if rungs[rung] == pause]
        return replace(trial, rung=further[0]) if further else None
    return trial if trial.rung < len(rungs) else None


def fits(setting: dict[str, Any], space: Space) -> bool:
    """Whether a setting lies in a space: it says the same names, each a value that may be taken."""
    return setting.keys() == space.keys() and all(space[name].holds(value) for name, value in setting.items())
