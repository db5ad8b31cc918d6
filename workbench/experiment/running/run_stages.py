"""The stages that runs rest on, made or found: rows tokenised, pairs collected, log-probabilities of a reference."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.data import tasks
from workbench.data.forms import PAIRS, DataForm
from workbench.data.sets import RowSet
from workbench.data.settings import CollectData, ReadData, TaskData
from workbench.data.tasks import Split
from workbench.data.taught import num_learned, stored_bytes
from workbench.errors import DefinitionError
from workbench.experiment.definition.schema import START, RunSpec, dump
from workbench.experiment.identity import (
    collect_identity,
    model_identity,
    reading_identity,
    samplers_of,
    source_identity,
    task_fields,
    teacher_identity,
)
from workbench.experiment.running.files_read import model_files, source_files
from workbench.experiment.running.held_out_files import held_out_pairs_source
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.running.start_models import StartModels
from workbench.experiment.stages import collect, reference_logprobs, teacher_logprobs
from workbench.experiment.stages.cache import VERSIONS, Stage, StageCache, StageResult
from workbench.experiment.stages.data import ROWS_FILE, Reading, write_rows
from workbench.experiment.stages.worker import Worker
from workbench.inputs import Inputs
from workbench.models.tokenizer import Tokenizer, read_json
from workbench.tracking.words import plural
from workbench.trainer.settings import COSTS_VERSION

COSTS = {"costs_version": COSTS_VERSION}
"""Part of the key of every stage that charges: a run adds up no costs that were counted in two ways."""
Progress = Callable[[int, int], None]


class RunStages:
    """Makes what is missing of a run's stages, each by `jobs` processes."""

    def __init__(self, models: StartModels, jobs: int) -> None:
        self.models, self.jobs = models, jobs
        self.cache = StageCache(models.runs)

    def training_data(self, spec: RunSpec, form: DataForm) -> StageResult:
        """The training data as token ids, alone. form: what the trainer takes, or another to look at a file in."""
        tokenizer = Tokenizer.load(self.models.folder(spec))
        if isinstance(spec.data, ReadData):
            return self._read(spec.data, form, tokenizer, spec.difficulty)
        source = None
        if isinstance(spec.data, CollectData):
            source = self.collected(spec, "train", spec.data.collect.wanted, self.models.worker(spec))
        return self.tokenised(spec, tokenizer, source)

    def collected(self, spec: RunSpec, split: Split, num_pairs: int, worker: Worker) -> StageResult:
        """Pairs from models' own samples."""
        assert isinstance(spec.data, CollectData)
        settings = spec.data.collect
        wanted = [
            self.models.unverified(spec) if name == START else RunFolder(self.models.runs, name).model
            for name in samplers_of(spec)
        ]
        inputs = Inputs(path for folder in wanted for path in model_files(folder))
        model = model_identity(spec.model, spec.start, self.models.runs)
        key = {
            **collect_identity(spec, spec.data, model, self.models.runs),
            "split": split,
            "pairs": num_pairs,
            "precision": worker.precision,
            "threads": worker.threads,
        }
        key.pop("held_out_pairs")
        folders = [
            self.models.folder(spec) if name == START else self.models.made_by(name) for name in samplers_of(spec)
        ]
        what = "completion" if settings.completions else "held-out pair" if split == "held_out" else "pair"
        return self._get(
            Stage("collect", VERSIONS["collect"], key | COSTS),
            lambda folder, progress: collect.collect_pairs(
                folder, settings, split=split, num_pairs=num_pairs, samplers=folders, worker=worker, jobs=self.jobs,
                on_progress=progress,
            ),
            f"collecting {plural(num_pairs, what)}",
            inputs,
        )  # fmt: skip

    def tokenised(self, spec: RunSpec, tokenizer: Tokenizer, source: StageResult | None) -> StageResult:
        """The training data as token ids; source: what was collected, that it comes from, if any."""
        data = spec.data
        if isinstance(data, ReadData):
            return self._read(data, spec.form, tokenizer, spec.difficulty)
        if source is not None:
            return self._of_collected(tokenizer, source, spec.form)
        assert isinstance(data, TaskData), "pairs are collected before they are tokenised"
        made = {"task": task_fields(dump(data)), "version": tasks.VERSION}
        return self._token_stage(tokenizer, made, Reading.of_task(data, spec.form), Inputs(()))

    def held_out_pairs(self, spec: RunSpec, tokenizer: Tokenizer, worker: Worker) -> StageResult | None:
        """The held-out pairs as token ids; None where evaluate asks for none."""
        held_out = held_out_pairs_source(spec)
        if held_out is not None:
            return self._read(held_out, spec.form if spec.form.has_pair_accuracy else PAIRS, tokenizer)
        if isinstance(spec.data, CollectData) and spec.data.collect.held_out_pairs and spec.evaluate is not None:
            source = self.collected(spec, "held_out", spec.data.collect.held_out_pairs, worker)
            return self._of_collected(tokenizer, source, PAIRS)
        return None

    def _of_collected(self, tokenizer: Tokenizer, source: StageResult, form: DataForm) -> StageResult:
        """What was collected, as token ids in a form."""
        reading, inputs = Reading.of_collected(source.folder / collect.PAIRS_FILE, form), Inputs.verified(source.hashes)
        return self._token_stage(tokenizer, {"collect": source.stage.fingerprint}, reading, inputs)

    def scored(self, spec: RunSpec, pairs: StageResult, folder: Path, worker: Worker, inputs: Inputs) -> StageResult:
        """Log-probabilities of pairs under the model that the run begins with. inputs: the model's files among them, as
        they stood before they were verified."""
        key = {
            "model": model_identity(spec.model, spec.start, self.models.runs),
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

    def taught(self, spec: RunSpec, data: StageResult, folder: Path, worker: Worker, inputs: Inputs) -> StageResult:
        """What the teacher, in that folder, says of the rows. inputs: as those of `scored`. DefinitionError where it is
        too much to be stored."""
        read = Inputs.verified(data.hashes)
        with read.unchanged():
            rows = RowSet.load(data.folder / ROWS_FILE)
        vocabulary = read_json(folder / "config.json")["vocab_size"]
        size = stored_bytes(num_learned(rows), vocabulary)
        if size > teacher_logprobs.LARGEST:
            where = spec.origins.get("hyperparameters.teacher_logprobs", spec.key)
            raise DefinitionError(
                f"{where}: hyperparameters.teacher_logprobs: stored would take {size / 1e9:,.3g} GB, "
                f"{num_learned(rows):,} tokens x {vocabulary:,} log-probabilities; allowed up to "
                f"{teacher_logprobs.LARGEST / 1e9:.3g} GB: take each_step, or fewer rows"
            )
        key = {
            **teacher_identity(spec, self.models.runs),
            "data": data.stage.fingerprint,
            "precision": worker.precision,
            "threads": worker.threads,
        }
        return self._get(
            Stage("teacher_logprobs", VERSIONS["teacher_logprobs"], key | COSTS),
            lambda out, progress: teacher_logprobs.score_by_teacher(
                out, rows, model_folder=folder, worker=worker, jobs=self.jobs, on_progress=progress
            ),
            f"scoring {plural(len(rows), 'row')} under the teacher",
            inputs | read,
        )

    def _read(
        self, settings: ReadData, form: DataForm, tokenizer: Tokenizer, difficulty: str | None = None
    ) -> StageResult:
        """Rows from where the settings say, in the form that is needed. difficulty: the column that is kept beside
        them."""
        inputs = Inputs(source_files(settings))
        source = {**source_identity(settings), **reading_identity(settings)}
        return self._token_stage(tokenizer, source, Reading.of(settings, form, difficulty), inputs)

    def _token_stage(
        self, tokenizer: Tokenizer, source: dict[str, Any], reading: Reading, inputs: Inputs
    ) -> StageResult:
        """Rows as token ids. source: what decides them, beside how they are read. inputs: what they are read from."""
        key = {**source, **reading.key, "tokenizer": tokenizer.fingerprint}
        return self._get(
            Stage("data", VERSIONS["data"], key), lambda out, _: write_rows(out, reading, tokenizer), "", inputs
        )

    def _get(
        self, stage: Stage, make: Callable[[Path, Progress], dict[str, Any]], label: str, inputs: Inputs
    ) -> StageResult:
        """The stage from the cache, or made. inputs: what it is made of, as it stood before the key was taken of it."""

        def progress(done: int, total: int) -> None:
            if label:
                self.models.reporter.progress(label, done, total)

        def timed(folder: Path) -> dict[str, Any]:
            started = time.perf_counter()
            with inputs.unchanged():
                made = make(folder, progress)
            if "costs" in made:
                made["costs"]["seconds"] = time.perf_counter() - started
            return made

        return self.cache.get(stage, timed, self.models.reporter.say)
