"""Everything a run needs before it trains: its model, its data tokenised, its pairs, its reference - made or found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from workbench.data import tasks
from workbench.data.counts import Counts
from workbench.data.forms import PAIRS, DataForm
from workbench.data.settings import CollectData, ReadData, TaskData
from workbench.data.tasks import Split
from workbench.disk import make_folder
from workbench.errors import ModelError
from workbench.experiment.data_warnings import cut_warnings, data_warnings, end_warnings
from workbench.experiment.definition.schema import START, RunSpec, dump, scores_reference
from workbench.experiment.files_read import model_files, opened_by_run, prepared_from, source_files
from workbench.experiment.held_out_files import held_out_pairs_source
from workbench.experiment.identity import (
    collect_identity,
    data_files,
    file_identity,
    held_out_split,
    identify,
    model_identity,
    own_code,
    reading_identity,
    samplers_of,
    source_identity,
    task_fields,
)
from workbench.experiment.launchers import fork_map
from workbench.experiment.positions import check_rows
from workbench.experiment.prepared import PreparedRun
from workbench.experiment.run_folder import RunFolder
from workbench.experiment.stages import collect, reference_logprobs
from workbench.experiment.stages.cache import FOLDER, Stage, StageCache, StageResult
from workbench.experiment.stages.data import ROWS_FILE, Reading, write_rows
from workbench.experiment.stages.versions import VERSIONS
from workbench.experiment.stages.worker import Worker
from workbench.inputs import REMEDY, Inputs
from workbench.locks import hold
from workbench.models.give_template import REPLACED, replaces_template
from workbench.models.load import load_model
from workbench.models.resolve import resolve_model_folder
from workbench.models.tokenizer import Tokenizer
from workbench.tracking.words import plural
from workbench.trainer.device import training_device
from workbench.trainer.precision import resolve_precision
from workbench.trainer.settings import COSTS_VERSION

COSTS = {"costs_version": COSTS_VERSION}
"""Part of the key of every stage that charges: a run adds up no costs that were counted in two ways."""


class Reporter(Protocol):
    """Where preparing says what it does."""

    def say(self, text: str) -> None: ...

    def progress(self, label: str, done: int, total: int) -> None: ...


Progress = Callable[[int, int], None]


class Preparer:
    """Prepares runs one after the other; each stage is computed by `jobs` processes."""

    def __init__(self, runs: Path, reporter: Reporter, jobs: int) -> None:
        self.runs, self.reporter, self.jobs = runs, reporter, jobs
        self.cache = StageCache(runs)
        self._precisions: dict[tuple[str, int], str] = {}
        self._told: set[Path | str] = set()

    def prepare(self, spec: RunSpec, precision: str) -> PreparedRun:
        """Make what is missing. Raises what the user can mend: DataError, ModelError, StorageError; DataError too
        where a file that it is made of changes meanwhile."""
        folder = self._unverified_model(spec)
        inputs = Inputs(prepared_from(spec, self.runs, folder))
        with inputs.unchanged():
            return self._prepare(spec, precision, self.model_folder(spec), inputs)

    def _prepare(self, spec: RunSpec, precision: str, folder: Path, inputs: Inputs) -> PreparedRun:
        identity = identify(spec, self.runs, precision)
        if identity.fields is None:
            raise ModelError(f"{identity.waits_for}, which {spec.key} begins from, was taken away; {REMEDY}")
        tokenizer = Tokenizer.load(folder)
        worker = Worker(precision, spec.threads, spec.hyperparameters.device)
        data = spec.data
        notes = [REPLACED] if replaces_template(folder) else []
        files = own_code(spec)
        inherited: dict[str, dict[str, float]] = {}
        source: StageResult | None = None
        if isinstance(data, CollectData):
            source = self._collected(spec, "train", data.collect.pairs, worker)
            inherited["collect"] = source.made["costs"]
            notes.append(collect.pair_note(source.made))
        elif isinstance(data, ReadData):
            files |= data_files(data)
        rows = self._tokenised(spec, tokenizer, source)
        check_rows(spec, spec.form, rows, rows.folder / ROWS_FILE, folder)
        found = Counts(**rows.made["counts"])
        told = (found.note(), found.repeated_note(), *found.remarks(), *end_warnings(found, tokenizer))
        notes += [f"training data: {note}" for note in told if note]
        self._warn(data_warnings(spec, found, tokenizer))
        reference = None
        if scores_reference(spec):
            reference = self._scored(spec, rows, folder, worker, inputs)
            inherited["ref_logprobs"] = reference.made["costs"]
        held_out = self._held_out_pairs(spec, tokenizer, worker)
        held_out_reference = None
        if held_out is not None:
            check_rows(spec, PAIRS, held_out, held_out.folder / ROWS_FILE, folder)
            held_out_reference = self._scored(spec, held_out, folder, worker, inputs)
        if spec.evaluate is not None:
            files |= {path: file_identity(path) for path in (spec.evaluate.path, spec.evaluate.pairs) if path}
            split = held_out_split(spec)
            files |= data_files(split) if split is not None else {}
        if held_out is not None and (note := (cut := Counts(**held_out.made["counts"])).note()):
            notes.append(f"held-out pairs: {note}")
            if isinstance(data, ReadData):
                self._warn(cut_warnings("held-out pairs", data.max_tokens, cut))
        return PreparedRun(
            spec,
            identity,
            precision,
            folder,
            rows,
            reference=reference,
            held_out_pairs=held_out,
            held_out_reference=held_out_reference,
            inherited=inherited,
            collected=source,
            notes=tuple(notes),
            data_files=files,
            counts={
                name: {key: value for key, value in stage.made["counts"].items() if key != "places"}
                for name, stage in (("data", rows), ("held_out_pairs", held_out))
                if stage is not None
            },
            opened=Inputs(opened_by_run(spec, folder)).hashes(),
        )

    def _warn(self, warnings: Iterable[str]) -> None:
        """Each once for all runs that share it."""
        for text in warnings:
            if text not in self._told:
                self._told.add(text)
                self.reporter.say(f"warning: {text}")

    def precision(self, spec: RunSpec) -> str:
        """The precision that the run will use; "fastest" is resolved with its model, in a process of its own."""
        wanted = spec.hyperparameters.precision
        waits = spec.start is not None and not RunFolder(self.runs, spec.start).is_finished()
        if wanted != "fastest" or waits:
            return wanted
        key = (spec.start or dump(spec.model)["path"] or str(dump(spec.model)), spec.threads)
        if key not in self._precisions:
            folder, device = self.model_folder(spec), spec.hyperparameters.device

            def probe(_: None, folder: Path) -> str:
                return resolve_precision(wanted, training_device(device), load_model(folder))

            [self._precisions[key]] = fork_map(lambda: None, probe, [folder], jobs=1, threads=spec.threads)
        return self._precisions[key]

    def _unverified_model(self, spec: RunSpec) -> Path:
        return RunFolder(self.runs, spec.start).model if spec.start is not None else self.model_folder(spec)

    def model_folder(self, spec: RunSpec) -> Path:
        """The model that the run begins with, verified where it is another run's."""
        if spec.start is not None:
            return self._made_by(spec.start)
        assert spec.model is not None
        stages = self.runs / FOLDER
        make_folder(stages)
        with hold(self.runs, "models", on_wait=lambda holder: self.reporter.say(f"waiting for a model: {holder}")):
            folder = resolve_model_folder(spec.model, stages)
        if replaces_template(folder) and folder not in self._told:
            self._told.add(folder)
            self.reporter.say(f"model.chat_template: {REPLACED}")
        return folder

    def _made_by(self, key: str) -> Path:
        """The model of a finished run, verified."""
        folder = RunFolder(self.runs, key)
        folder.verify_model()
        return folder.model

    def training_data(self, spec: RunSpec, form: DataForm) -> StageResult:
        """The training data as token ids, alone. form: what the trainer takes, or another to look at a file in."""
        tokenizer = Tokenizer.load(self.model_folder(spec))
        if isinstance(spec.data, ReadData):
            return self._read(spec.data, form, tokenizer)
        source = None
        if isinstance(spec.data, CollectData):
            source = self._collected(spec, "train", spec.data.collect.pairs, self._worker(spec))
        return self._tokenised(spec, tokenizer, source)

    def held_out_pairs(self, spec: RunSpec) -> StageResult | None:
        """The held-out pairs as token ids, None where evaluate asks for none."""
        return self._held_out_pairs(spec, Tokenizer.load(self.model_folder(spec)), self._worker(spec))

    def _worker(self, spec: RunSpec) -> Worker:
        return Worker(self.precision(spec), spec.threads, spec.hyperparameters.device)

    def _collected(self, spec: RunSpec, split: Split, num_pairs: int, worker: Worker) -> StageResult:
        assert isinstance(spec.data, CollectData)
        settings = spec.data.collect
        wanted = [
            self._unverified_model(spec) if name == START else RunFolder(self.runs, name).model
            for name in samplers_of(spec)
        ]
        inputs = Inputs(path for folder in wanted for path in model_files(folder))
        model = model_identity(spec.model, spec.start, self.runs)
        key = {
            **collect_identity(spec, spec.data, model, self.runs),
            "split": split,
            "pairs": num_pairs,
            "precision": worker.precision,
            "threads": worker.threads,
        }
        key.pop("held_out_pairs")
        folders = [self.model_folder(spec) if name == START else self._made_by(name) for name in samplers_of(spec)]
        label = f"collecting {plural(num_pairs, 'held-out pair' if split == 'held_out' else 'pair')}"
        return self._get(
            Stage("collect", VERSIONS["collect"], key | COSTS),
            lambda folder, progress: collect.collect_pairs(
                folder, settings, split=split, num_pairs=num_pairs, samplers=folders, worker=worker, jobs=self.jobs,
                on_progress=progress,
            ),
            label,
            inputs,
        )  # fmt: skip

    def _tokenised(self, spec: RunSpec, tokenizer: Tokenizer, source: StageResult | None) -> StageResult:
        """The training data as token ids; source: the collected pairs it comes from, if any."""
        data = spec.data
        if isinstance(data, ReadData):
            return self._read(data, spec.form, tokenizer)
        if source is not None:
            reading = Reading.of_collected(source.folder / collect.PAIRS_FILE)
            inputs = Inputs.verified(source.hashes)
            return self._token_stage(tokenizer, {"collect": source.stage.fingerprint}, reading, inputs)
        assert isinstance(data, TaskData), "pairs are collected before they are tokenised"
        made = {"task": task_fields(dump(data)), "version": tasks.VERSION}
        return self._token_stage(tokenizer, made, Reading.of_task(data, spec.form), Inputs(()))

    def _read(self, settings: ReadData, form: DataForm, tokenizer: Tokenizer) -> StageResult:
        """Rows from where the settings say, in the form that is needed."""
        inputs = Inputs(source_files(settings))
        source = {**source_identity(settings), **reading_identity(settings)}
        return self._token_stage(tokenizer, source, Reading.of(settings, form), inputs)

    def _token_stage(
        self, tokenizer: Tokenizer, source: dict[str, Any], reading: Reading, inputs: Inputs
    ) -> StageResult:
        key = {**source, **reading.key, "tokenizer": tokenizer.fingerprint}
        return self._get(
            Stage("data", VERSIONS["data"], key), lambda out, _: write_rows(out, reading, tokenizer), "", inputs
        )

    def _held_out_pairs(self, spec: RunSpec, tokenizer: Tokenizer, worker: Worker) -> StageResult | None:
        held_out = held_out_pairs_source(spec)
        if held_out is not None:
            return self._read(held_out, PAIRS, tokenizer)
        if isinstance(spec.data, CollectData) and spec.data.collect.held_out_pairs and spec.evaluate is not None:
            source = self._collected(spec, "held_out", spec.data.collect.held_out_pairs, worker)
            return self._tokenised(spec, tokenizer, source)
        return None

    def _scored(self, spec: RunSpec, pairs: StageResult, folder: Path, worker: Worker, inputs: Inputs) -> StageResult:
        """inputs: the model's files among them, as they stood before they were verified."""
        key = {
            "model": model_identity(spec.model, spec.start, self.runs),
            "data": pairs.stage.fingerprint,
            "precision": worker.precision,
            "threads": worker.threads,
        }
        if spec.lora is not None and spec.lora.quantise is not None:
            key["quantise"] = spec.lora.quantise
        scorer = replace(worker, lora=spec.lora)
        read = Inputs.verified(pairs.hashes)
        with read.unchanged():
            rows = PAIRS.load(pairs.folder / ROWS_FILE)
        return self._get(
            Stage("ref_logprobs", VERSIONS["ref_logprobs"], key | COSTS),
            lambda out, progress: reference_logprobs.score_reference(
                out, rows, model_folder=folder, worker=scorer, jobs=self.jobs, on_progress=progress
            ),
            f"scoring {plural(len(rows), 'pair')} under the reference",
            inputs | read,
        )

    def _get(
        self, stage: Stage, make: Callable[[Path, Progress], dict[str, Any]], label: str, inputs: Inputs
    ) -> StageResult:
        """inputs: what it is made of, as it stood before the stage's key was taken of it."""

        def progress(done: int, total: int) -> None:
            if label:
                self.reporter.progress(label, done, total)

        def timed(folder: Path) -> dict[str, Any]:
            started = time.perf_counter()
            with inputs.unchanged():
                made = make(folder, progress)
            if "costs" in made:
                made["costs"]["seconds"] = time.perf_counter() - started
            return made

        return self.cache.get(stage, timed, self.reporter.say)
