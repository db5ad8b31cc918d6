"""The models that runs begin with: found or made, and verified; and what a process that runs one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from workbench.disk import make_folder
from workbench.experiment.definition.schema import RunSpec, dump
from workbench.experiment.running.processes import fork_map
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.stages.cache import FOLDER
from workbench.experiment.stages.worker import Worker
from workbench.locks import hold
from workbench.models.give_template import REPLACED, replaces_template
from workbench.models.load import load_model
from workbench.models.resolve import resolve_model_folder
from workbench.models.settings import ModelSettings
from workbench.trainer.machine.device import training_device
from workbench.trainer.machine.precision import resolve_precision


class Reporter(Protocol):
    """What is told of the work that preparing does."""

    def say(self, text: str) -> None: ...

    def progress(self, label: str, done: int, total: int) -> None: ...


class StartModels:
    """The models that the runs of a command begin with."""

    def __init__(self, runs: Path, reporter: Reporter) -> None:
        self.runs, self.reporter = runs, reporter
        self._precisions: dict[tuple[str, int], str] = {}
        self._told: set[Path] = set()

    def folder(self, spec: RunSpec) -> Path:
        """The model that the run begins with, verified where it is another run's."""
        if spec.start is not None:
            return self.made_by(spec.start)
        assert spec.model is not None
        return self._named(spec.model)

    def _named(self, settings: ModelSettings) -> Path:
        stages = self.runs / FOLDER
        make_folder(stages)
        with hold(self.runs, "models", on_wait=lambda holder: self.reporter.say(f"waiting for a model: {holder}")):
            folder = resolve_model_folder(settings, stages)
        if replaces_template(folder) and folder not in self._told:
            self._told.add(folder)
            self.reporter.say(f"model.chat_template: {REPLACED}")
        return folder

    def teacher(self, spec: RunSpec) -> Path | None:
        """The model that the run learns from, where it learns from one; verified where it is another run's."""
        if spec.teacher is None:
            return None
        return self.made_by(spec.teacher) if isinstance(spec.teacher, str) else self._named(spec.teacher)

    def unverified(self, spec: RunSpec) -> Path:
        """The folder of the start's model, not yet verified."""
        return RunFolder(self.runs, spec.start).model if spec.start is not None else self.folder(spec)

    def unverified_teacher(self, spec: RunSpec) -> list[Path]:
        """The folder of the model that the run learns from, not yet verified; empty where it learns from none."""
        if isinstance(spec.teacher, str):
            return [RunFolder(self.runs, spec.teacher).model]
        return [self._named(spec.teacher)] if spec.teacher is not None else []

    def made_by(self, key: str) -> Path:
        """The model of a finished run, verified."""
        folder = RunFolder(self.runs, key)
        folder.verify_model()
        return folder.model

    def precision(self, spec: RunSpec) -> str:
        """The precision that the run will use; "fastest" is resolved with its model, in a process of its own."""
        wanted = spec.hyperparameters.precision
        waits = spec.start is not None and not RunFolder(self.runs, spec.start).is_finished()
        if wanted != "fastest" or waits:
            return wanted
        key = (spec.start or dump(spec.model)["path"] or str(dump(spec.model)), spec.threads)
        if key not in self._precisions:
            folder, device = self.folder(spec), spec.hyperparameters.device

            def probe(_: None, folder: Path) -> str:
                return resolve_precision(wanted, training_device(device), load_model(folder))

            [self._precisions[key]] = fork_map(lambda: None, probe, [folder], jobs=1, threads=spec.threads)
        return self._precisions[key]

    def worker(self, spec: RunSpec, precision: str | None = None) -> Worker:
        """Says how a stage's process runs the model. precision: as it was resolved before."""
        return Worker(precision or self.precision(spec), spec.threads, spec.hyperparameters.device)
