"""Runs made ready to train: what each needs is made or found, and put together with what there is to say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workbench.data.counts import Counts
from workbench.data.forms import PAIRS
from workbench.data.settings import CollectData, MixData, ReadData
from workbench.errors import ModelError
from workbench.experiment.definition.schema import RunSpec, scores_reference
from workbench.experiment.identity import (
    data_files,
    file_identity,
    held_out_split,
    identify,
    measuring_stages,
    own_code,
    rewards_in,
    training_stages,
)
from workbench.experiment.named_models import refuse_other_tokens
from workbench.experiment.planning.data_warnings import cut_warnings, data_warnings, end_warnings
from workbench.experiment.planning.leaks import PAIRS as HELD_OUT_PAIRS
from workbench.experiment.planning.leaks import of_set
from workbench.experiment.planning.positions import check_rows
from workbench.experiment.running.files_read import opened_by_run, prepared_from
from workbench.experiment.running.prepared import PreparedRun, PreparedSource, named
from workbench.experiment.running.run_stages import RunStages
from workbench.experiment.running.start_models import Reporter, StartModels
from workbench.experiment.stages import collect
from workbench.experiment.stages.cache import StageResult
from workbench.experiment.stages.data import ROWS_FILE
from workbench.experiment.stages.worker import Worker
from workbench.inputs import REMEDY, Inputs
from workbench.models.give_template import REPLACED, replaces_template
from workbench.models.tokenizer import Tokenizer


class Preparer:
    """Prepares runs one after the other; each stage is computed by `jobs` processes."""

    def __init__(self, runs: Path, reporter: Reporter, jobs: int) -> None:
        self.runs, self.reporter = runs, reporter
        self.models = StartModels(runs, reporter)
        self.stages = RunStages(self.models, jobs)
        self._told: set[str] = set()

    def prepare(self, spec: RunSpec, precision: str) -> PreparedRun:
        """Make what is missing. Raises what the user can mend: DataError, ModelError, StorageError; DataError too
        where a file that it is made of changes meanwhile."""
        folders = [self.models.unverified(spec), *self.models.unverified_teacher(spec)]
        inputs = Inputs(prepared_from(spec, self.runs, *folders))
        with inputs.unchanged():
            for key in spec.judges:
                self.models.made_by(key)
            return self._prepare(spec, precision, self.models.folder(spec), inputs)

    def _teacher(self, spec: RunSpec, own: Tokenizer) -> Path | None:
        """The folder of the model that is learned from, where there is one. own: the student's. DefinitionError where
        the teacher's tokens are not the student's."""
        folder = self.models.teacher(spec)
        if folder is not None:
            teachers = Tokenizer.load(folder)
            refuse_other_tokens(spec, (own.name, own.tokens), (teachers.name, teachers.tokens))
        return folder

    def _prepare(self, spec: RunSpec, precision: str, folder: Path, inputs: Inputs) -> PreparedRun:
        identity = identify(spec, self.runs, precision)
        if identity.fields is None:
            raise ModelError(f"{identity.waits_for}, which {spec.key} begins from, was taken away; {REMEDY}")
        tokenizer = Tokenizer.load(folder)
        worker = self.models.worker(spec, precision)
        notes = [REPLACED] if replaces_template(folder) else []
        inherited: dict[str, dict[str, float]] = {}
        teacher = self._teacher(spec, tokenizer)
        sources = tuple(self._source(part, folder, teacher, worker, tokenizer, inputs) for part in spec.parts)
        names = spec.data.names if isinstance(spec.data, MixData) else ("",)
        for name, source in zip(names, sources, strict=True):
            inherited |= {
                named(what, name): stage.made["costs"] for what, stage in source.stages.items() if "costs" in stage.made
            }
            notes += _notes_of(source, name, tokenizer)
            self._warn(data_warnings(source.spec, source.counts, tokenizer))
        pairs = self._held_out_pairs(spec, tokenizer, worker, folder, inputs)
        held_out, held_out_reference = pairs.pop(spec.set_name, (None, None))
        for of, stage in ((None, held_out), *((of, stage) for of, (stage, _) in pairs.items())):
            if stage is not None and (note := (cut := Counts(**stage.made["counts"])).note()):
                notes.append(f"{of_set(HELD_OUT_PAIRS, of)}: {note}")
                if isinstance(spec.data, ReadData):
                    self._warn(cut_warnings(of_set(HELD_OUT_PAIRS, of), spec.data.max_tokens, cut))
        prepared = PreparedRun(
            spec,
            identity,
            precision,
            folder,
            sources,
            teacher_folder=teacher,
            held_out_pairs=held_out,
            held_out_reference=held_out_reference,
            other_pairs={str(name): both for name, both in pairs.items()},
            inherited=inherited,
            notes=tuple(notes),
            data_files=_files(spec),
            counts=_counts(
                {named("data", name): source.data for name, source in zip(names, sources, strict=True)}
                | {"held_out_pairs": held_out}
            ),
            opened=Inputs(opened_by_run(spec, self.runs, folder, *([teacher] if teacher is not None else []))).hashes(),
        )
        unnamed = prepared.stage_names - training_stages(spec) - measuring_stages(spec)
        assert not unnamed, f"a run reads stages that its identity does not name: {unnamed}"
        return prepared

    def _held_out_pairs(
        self, spec: RunSpec, tokenizer: Tokenizer, worker: Worker, folder: Path, inputs: Inputs
    ) -> dict[str | None, tuple[StageResult, StageResult | None]]:
        """The pairs of every held-out set that has some, and, where they are not scored alone, their log-probabilities
        under the start, by the set."""
        found: dict[str | None, tuple[StageResult, StageResult | None]] = {}
        for own in spec.by_set:
            pairs = self.stages.held_out_pairs(own, tokenizer, worker)
            if pairs is not None:
                check_rows(own, PAIRS, pairs, pairs.folder / ROWS_FILE, folder)
                alone = own.hyperparameters.scores_texts
                found[own.set_name] = (pairs, None if alone else self.stages.scored(own, pairs, folder, worker, inputs))
        return found

    def _source(
        self, spec: RunSpec, folder: Path, teacher: Path | None, worker: Worker, tokenizer: Tokenizer, inputs: Inputs
    ) -> PreparedSource:
        """The training data of a run with one source, made where it is missing."""
        data, collected = spec.data, None
        if isinstance(data, CollectData):
            collected = self.stages.collected(spec, "train", data.collect.wanted, worker)
        rows = self.stages.tokenised(spec, tokenizer, collected)
        check_rows(spec, spec.form, rows, rows.folder / ROWS_FILE, folder)
        reference = self.stages.scored(spec, rows, folder, worker, inputs) if scores_reference(spec) else None
        taught = None
        if teacher is not None and spec.hyperparameters.stores_teacher:
            taught = self.stages.taught(spec, rows, teacher, worker, inputs)
        return PreparedSource(spec, rows, collected, reference, taught, rewards_in(spec, self.runs))

    def _warn(self, warnings: Iterable[str]) -> None:
        """Each once for all runs that share it."""
        for text in warnings:
            if text not in self._told:
                self._told.add(text)
                self.reporter.say(f"warning: {text}")


def _files(spec: RunSpec) -> dict[str, str]:
    """The files that the run rests on, and the hashes of their contents, for the record."""
    files = own_code(spec)
    for part in spec.parts:
        files |= data_files(part.data) if isinstance(part.data, ReadData) else {}
    for own in spec.by_set:
        if own.evaluate is not None:
            files |= {path: file_identity(path) for path in (own.evaluate.path, own.evaluate.pairs) if path}
        split = held_out_split(own)
        files |= data_files(split) if split is not None else {}
    return files


def _counts(stages: Mapping[str, StageResult | None]) -> dict[str, dict[str, Any]]:
    """What became of the rows of each stage that there is."""
    return {
        name: {key: value for key, value in stage.made["counts"].items() if key != "places"}
        for name, stage in stages.items()
        if stage is not None
    }


def _notes_of(source: PreparedSource, name: str, tokenizer: Tokenizer) -> list[str]:
    """What the report must say of the training data, or of the source of that name."""
    found = source.counts
    collected = [collect.collect_note(source.collected.made)] if source.collected is not None else []
    told = (found.note(), found.repeated_note(), *found.remarks(), *end_warnings(found, tokenizer))
    return collected + [f"{'training data' if not name else f'source {name}'}: {note}" for note in told if note]
