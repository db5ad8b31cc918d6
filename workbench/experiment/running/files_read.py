"""Which files a run reads: those it is prepared from, and those that its own process opens when it begins."""

from __future__ import annotations

from pathlib import Path

from workbench.data.hub import saved_files
from workbench.data.reading import local_files
from workbench.data.settings import DatasetData, ReadData
from workbench.experiment.definition.schema import START, RunSpec
from workbench.experiment.identity import held_out_split, rewards_in
from workbench.experiment.running.run_folder import RunFolder
from workbench.models.chat_templates import template_file
from workbench.models.folder import adapter_base, is_adapter
from workbench.models.settings import ModelSettings


def model_files(folder: Path) -> list[Path]:
    """A model's files and its folder, for the names in it; with those of the base that an adapter stands on."""
    found = [*(path for path in sorted(folder.glob("*")) if path.is_file()), folder]
    return found + model_files(adapter_base(folder)) if is_adapter(folder) else found


def source_files(settings: ReadData) -> list[Path]:
    """The data files that settings name on this machine; none of a data set of the hub, which is read by its commit."""
    return local_files(settings) or (saved_files(settings) if isinstance(settings, DatasetData) else [])


def opened_by_run(spec: RunSpec, runs: Path, *models: Path) -> list[Path]:
    """What the run's own process reads, its stages left out. models: the folders of those that it loads."""
    found = [path for model in models for path in model_files(model)]
    for own in spec.by_set:
        if own.evaluate is not None and own.evaluate.path is not None:
            found.append(Path(own.evaluate.path).expanduser())
        split = held_out_split(own)
        found += source_files(split) if split is not None else []
    for reward in (reward for part in spec.parts for reward in rewards_in(part, runs)):
        found += [Path(reward.file).expanduser()] if reward.file is not None else []
        found += model_files(Path(reward.model).expanduser()) if reward.model is not None else []
    return found


def prepared_from(spec: RunSpec, runs: Path, *models: Path) -> list[Path]:
    """All that a run rests on and its identity is taken of."""
    found = opened_by_run(spec, runs, *models)
    found += [path for part in spec.parts if isinstance(part.data, ReadData) for path in source_files(part.data)]
    for own in spec.by_set:
        if own.evaluate is not None and own.evaluate.pairs is not None:
            found.append(Path(own.evaluate.pairs).expanduser())
    for key in spec.sources:
        found += model_files(RunFolder(runs, key).model) if key != START else []
    given = (settings for settings in (spec.model, spec.teacher) if isinstance(settings, ModelSettings))
    return found + [path for settings in given for path in _given_files(settings)]


def _given_files(settings: ModelSettings) -> list[Path]:
    """What a model is converted from, as far as a path names it."""
    paths = [Path(path).expanduser() for path in (settings.path, settings.adapter) if path is not None]
    template = None if settings.chat_template is None else template_file(settings.chat_template)
    paths += [] if template is None else [template]
    return [file for path in paths for file in (sorted(path.glob("*")) if path.is_dir() else [path]) if file.is_file()]
