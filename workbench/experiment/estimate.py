"""What an experiment will take: steps, tokens, FLOPs, memory, disk, time - before anything runs, without torch."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.data.asked import asked_prompt
from workbench.data.epochs import batches_of_epochs, rows_of_epochs
from workbench.data.fields import renamed
from workbench.data.formats import FORMATS, Form, kind_of, parse_example, parse_side, serves, side_of
from workbench.data.reading import local_files, open_records
from workbench.data.settings import CollectData, ReadData, TaskData
from workbench.data.tasks import iterate_rows
from workbench.errors import WorkbenchError
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.provenance import num_cores
from workbench.experiment.record_sizes import record_bytes
from workbench.experiment.run_folder import RunFolder
from workbench.experiment.sizes import BYTES_PER_NUMBER, RunSize, StepWork, disk_bytes, memory_bytes
from workbench.experiment.stages.cache import FOLDER
from workbench.models.presets import preset_config
from workbench.models.smollm2 import SMOLLM2_NAME
from workbench.tracking.reader import read_json
from workbench.trainer.rollout_settings import RolloutSettings
from workbench.trainer.settings import Budget, DataForm

SAMPLE = 200
"""Rows of a task that are made to see how long they are."""
CHARACTERS_PER_TOKEN = 3.6
"""Of English text under a vocabulary of tens of thousands."""
LARGEST_READ = 64 << 20
"""Bytes of a data file beyond which its rows are not counted before the run."""
UNCALIBRATED_SHARE = 0.3
"""Of the matrix product's speed that training is taken to reach while no run here has been timed."""


@dataclass(frozen=True)
class Estimate:
    """Of one run; None where the data has not been seen yet."""

    rows: int | None
    steps: int | None
    steps_per_epoch: float | None
    tokens_per_step: float | None
    flops: float | None
    seconds: float | None
    memory_bytes: float | None
    disk_bytes: float | None
    budget_steps: float | None = None
    """Steps after which the run's budget ends it, what comes before its first step not counted; None: none does."""
    full_steps: float = 0.0
    """The steps, of which the last one of `epochs` counts as the share of its rows; 0: not known."""


@dataclass(frozen=True)
class Speed:
    """FLOP/s that runs reach here, evaluation included, and how that is known."""

    flops_per_second: float
    source: str


def measured_speed(runs: Path, spec: RunSpec) -> Speed:
    """From finished runs of the same trainer in this folder; else from a matrix product timed now."""
    rates = []
    for path in sorted(runs.glob("*/*/seed*/status.json"))[:200]:
        folder = RunFolder(runs, "/".join(path.parent.relative_to(runs).parts))
        status = folder.status()
        same = (status.get("identity") or {}).get("trainer") == spec.trainer and status.get("threads") == spec.threads
        flops, seconds = (status.get("costs") or {}).get("flops"), status.get("seconds")
        if same and flops and seconds and status.get("state") == "finished":
            rates.append(flops / seconds)
    if rates:
        return Speed(statistics.median(rates), f"the speed of {len(rates)} finished {spec.trainer} runs here")
    return Speed(
        UNCALIBRATED_SHARE * _matmul_flops_per_second() * spec.threads,
        f"{UNCALIBRATED_SHARE:.0%} of a matrix product timed now, for no {spec.trainer} run has finished here",
    )


def _matmul_flops_per_second(size: int = 768) -> float:
    """A core's share of a float32 matrix product on all of them."""
    import numpy as np

    a = np.ones((size, size), np.float32)
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / num_cores()


def estimate(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path, speed: Speed) -> Estimate:
    """Of one run. specs: every run of the experiment by key, for the models they begin from."""
    settings = spec.hyperparameters
    config = _model_config(spec, specs, runs)
    rows, lengths = _data_size(spec, characters=config is not None and config["vocab_size"] < 1000)
    updates = settings.updates_per_rollout if isinstance(settings, RolloutSettings) else 1
    steps_per_epoch = rows / settings.batch_rows_per_step() * updates if rows else None
    steps, full = settings.steps, float(settings.steps or 0)
    if steps is None and rows:
        batch_rows = settings.batch_rows_per_step()
        steps = batches_of_epochs(settings.epochs, rows, batch_rows) * updates
        full = rows_of_epochs(settings.epochs, rows) / batch_rows * updates  # the last takes what is left
    work = StepWork.of(settings, lengths) if lengths else None
    tokens_per_step = work.trained_tokens if work is not None else None
    if config is None:
        return Estimate(rows, steps, steps_per_epoch, tokens_per_step, None, None, None, None, full_steps=full)
    size = RunSize.of(config, spec)
    flops = seconds = memory = ended = None
    if steps and work is not None:
        again = 2 * size.hidden if settings.gradient_checkpointing else 0
        per_step = work.trained_tokens * (4 * size.frozen + 6 * size.trained + again)
        per_step += 2 * size.policy * (work.generated_tokens + work.scored_tokens)
        within = _steps_within(spec.budget, per_step, work.trained_tokens, speed)
        ended = within if within < full else None
        flops = (full if ended is None else ended) * per_step
        seconds = flops / speed.flops_per_second
    if work is not None:
        memory = memory_bytes(config, spec, size, work)
    last = steps if ended is None else ended
    disk = disk_bytes(size, settings, last, seconds)
    if last is not None and lengths:
        characters_per_token = 1.0 if config["vocab_size"] < 1000 else CHARACTERS_PER_TOKEN
        disk += record_bytes(spec, last, lengths, characters_per_token)
    return Estimate(rows, steps, steps_per_epoch, tokens_per_step, flops, seconds, memory, disk, ended, full)


def model_bytes(spec: RunSpec, runs: Path) -> float:
    """Of the model that a run begins with, where it is made under the runs folder and is not there yet."""
    assert spec.model is not None, "a run that begins from another makes no model"
    if spec.model.preset is None or any((runs / FOLDER).glob(f"model-v1-{spec.model.preset}-seed{spec.model.seed}")):
        return 0.0
    return float(BYTES_PER_NUMBER * RunSize.of(preset_config(spec.model.preset), spec).policy)


def _steps_within(budget: Budget | None, flops: float, tokens: float, speed: Speed) -> float:
    """Steps that a budget allows, each of so many FLOPs and trained tokens."""
    if budget is None:
        return math.inf
    limits = (
        (budget.flops, flops),
        (budget.tokens, tokens),
        (budget.seconds, flops / speed.flops_per_second),
    )
    return min(limit / each for limit, each in limits if limit is not None)


def _data_size(spec: RunSpec, *, characters: bool) -> tuple[int | None, list[float]]:
    """Rows (or pairs, or prompts), and tokens that a step reads of some of them, of a pair its prompt once; none where
    they cannot be known yet. characters: a token is a character."""
    data = spec.data
    if isinstance(data, ReadData):
        found = _row_lengths(data, spec.hyperparameters.data_form)
        per_token = 1.0 if characters else CHARACTERS_PER_TOKEN
        return len(found) or None, [min(length / per_token, 2.0 * data.max_tokens) for length in found]
    settings = data.collect if isinstance(data, CollectData) else data
    sample = list(itertools.islice(iterate_rows(settings, "train", 0), SAMPLE))
    if spec.hyperparameters.data_form == "prompts":
        assert isinstance(data, TaskData), "collected pairs are for trainers of pairs"
        return data.rows, [float(len(row.prompt)) for row in sample]
    if isinstance(data, CollectData):
        return data.collect.pairs, [float(len(row.prompt) + 2 * (len(row.completion) + 1)) for row in sample]
    return data.rows, [float(len(row.prompt) + len(row.completion) + 1) for row in sample]


def _row_lengths(data: ReadData, form: DataForm) -> list[int]:
    """Characters that each row makes the model read, of a pair its prompt once. Empty where unreadable."""
    try:
        files = local_files(data)
        if not files or not all(path.is_file() for path in files) or sum(map(_size, files)) > LARGEST_READ:
            return []
        return [_characters(record.fields, data.columns, form) for record in open_records(data)]
    except (WorkbenchError, ValueError):
        return []


def _characters(own: dict[str, Any], columns: Mapping[str, str], form: DataForm) -> int:
    """Of one row, of prompts the prompt's alone. ValueError where it is of no format."""
    wanted: Form = "rows" if form == "text" else form
    side = side_of(columns, own, wanted)
    fields = renamed(own, {name: column for name, column in columns.items() if not side or name != "completion"})
    if side is not None:
        example = parse_side(fields, side)
        prompt = len(asked_prompt(example).text)
        return prompt if form == "prompts" else prompt + len(str(fields[side])) * (not isinstance(fields[side], list))
    kind = kind_of(fields, wanted)
    if not serves(kind, wanted):
        raise ValueError(f"{kind} rows are none of {form}")
    if form == "prompts":
        return len(asked_prompt(parse_example(kind, fields)).text)
    read = {name: len(str(value)) for name, value in fields.items() if name in FORMATS[kind].needed or name == "input"}
    return sum(read.values())


def _size(path: Path) -> int:
    return path.stat().st_size


def start_config(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> dict[str, Any] | None:
    """The config.json of the model that the run's chain of starts begins with; None while it is not there."""
    while spec.start is not None:
        spec = specs[spec.start]
    assert spec.model is not None
    if spec.model.preset is not None:
        return preset_config(spec.model.preset)
    folder = Path(spec.model.path).expanduser() if spec.model.path else runs / FOLDER / f"model-v1-{SMOLLM2_NAME}"
    return read_json(folder / "config.json")


def _model_config(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> dict[str, Any] | None:
    """The same where it tells a Llama's shape."""
    config = start_config(spec, specs, runs)
    needed = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"}
    return config if config is not None and needed <= config.keys() else None
