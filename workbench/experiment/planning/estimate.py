"""What an experiment will take: steps, tokens, FLOPs, memory, disk, time - before anything runs, without torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.data.epochs import batches_of_epochs, rows_of_epochs
from workbench.data.taught import stored_bytes
from workbench.errors import WorkbenchError
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.planning.lengths import CHARACTERS_PER_TOKEN, DataSize, data_size
from workbench.experiment.planning.sizes import (
    BYTES_PER_NUMBER,
    RunSize,
    StepWork,
    disk_bytes,
    memory_bytes,
    record_bytes,
)
from workbench.experiment.planning.speed import Speed, sampling_work
from workbench.experiment.stages.cache import FOLDER
from workbench.models.folder import adapter_base, find_weights, is_adapter
from workbench.models.presets import preset_config
from workbench.models.settings import ModelSettings
from workbench.models.sizes import read_shapes
from workbench.models.smollm2 import SMOLLM2_NAME
from workbench.tracking.reader import read_json
from workbench.trainer.settings import Budget

OTHER_NAMES = {
    "hidden_size": ("n_embd", "d_model", "dim"),
    "num_hidden_layers": ("n_layer", "num_layers", "n_layers"),
    "num_attention_heads": ("n_head", "num_heads", "n_heads"),
    "intermediate_size": ("n_inner", "ffn_dim", "d_ff"),
}
"""What other families' config.json calls a Llama's fields."""


@dataclass(frozen=True)
class Estimate:
    """What one run is estimated to take; None where the data has not been seen yet."""

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
    stored_bytes: float = 0.0
    """The most bytes that what a teacher says of the rows takes; runs of one teacher on the same data share it."""
    data: DataSize | None = None
    """The rows and their tokens, and how they are known."""


def estimate(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path, speed: Speed) -> Estimate:
    """What one run takes. specs: every run of the experiment by key, for the models they begin from."""
    settings = spec.hyperparameters
    config = model_shape(spec, specs, runs)
    data = training_size(spec, specs, runs)
    rows, lengths = data.rows, data.lengths
    updates = settings.updates_per_rollout
    steps_per_epoch = rows / settings.batch_rows_per_step() * updates if rows else None
    steps, full = settings.steps, float(settings.steps or 0)
    if steps is None and rows:
        batch_rows = settings.batch_rows_per_step()
        steps = batches_of_epochs(settings.epochs, rows, batch_rows) * updates
        full = rows_of_epochs(settings.epochs, rows) / batch_rows * updates  # the last takes what is left
    work = StepWork.of(settings, lengths) if lengths else None
    tokens_per_step = work.trained_tokens if work is not None else None
    size = run_size(spec, specs, runs)
    if size is None:
        known = (rows, steps, steps_per_epoch, tokens_per_step)
        return Estimate(*known, None, None, None, None, full_steps=full, data=data)
    flops = seconds = memory = ended = None
    if steps and work is not None:
        again = 2 * size.hidden if settings.gradient_checkpointing else 0
        per_step = work.trained_tokens * (4 * size.frozen + 6 * size.trained + again)
        per_step += 2 * size.policy * (work.generated_tokens + work.scored_tokens)
        per_step += 2 * size.teacher * work.taught_tokens
        step_seconds = sampling_work(per_step, work.generated_tokens, size.policy) / speed.flops_per_second
        within = _steps_within(spec.budget, per_step, work.trained_tokens, step_seconds)
        ended = within if within < full else None
        flops = (full if ended is None else ended) * per_step
        seconds = (full if ended is None else ended) * step_seconds
    if work is not None and config is not None:
        memory = memory_bytes(config, spec, size, work)
    last = steps if ended is None else ended
    disk = disk_bytes(size, settings, last, seconds)
    if last is not None and lengths:
        characters_per_token = 1.0 if _by_character(config) else CHARACTERS_PER_TOKEN
        disk += record_bytes(spec, last, lengths, characters_per_token)
    taught = 0.0
    if settings.stores_teacher and config is not None and work is not None and rows:
        taught = stored_bytes(rows * work.trained_tokens / work.rows, config["vocab_size"])
    spent = (flops, seconds, memory, disk, ended, full)
    return Estimate(rows, steps, steps_per_epoch, tokens_per_step, *spent, stored_bytes=taught, data=data)


def shared_bytes(found: Iterable[tuple[RunSpec, Estimate]]) -> float:
    """What runs that share it store once."""
    return sum({str((spec.teacher, spec.data)): estimated.stored_bytes for spec, estimated in found}.values())


def model_bytes(spec: RunSpec, runs: Path) -> float:
    """The shape of the model that a run begins with, where it is made under the runs folder and is not there yet."""
    assert spec.model is not None, "a run that begins from another makes no model"
    if spec.model.preset is None or any((runs / FOLDER).glob(f"model-v1-{spec.model.preset}-seed{spec.model.seed}")):
        return 0.0
    return float(BYTES_PER_NUMBER * RunSize.of(preset_config(spec.model.preset), spec).policy)


def _steps_within(budget: Budget | None, flops: float, tokens: float, seconds: float) -> float:
    """Steps that a budget allows, each of so many FLOPs, trained tokens and seconds."""
    if budget is None:
        return math.inf
    limits = (
        (budget.flops, flops),
        (budget.tokens, tokens),
        (budget.seconds, seconds),
    )
    return min(limit / each for limit, each in limits if limit is not None)


def training_size(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> DataSize:
    """Rows and tokens of a run's training data."""
    folder, by_character = tokens_of(spec, specs, runs)
    return data_size(spec, folder, characters=by_character)


def tokens_of(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> tuple[Path | None, bool]:
    """The folder of the tokenizer where it is here, and whether a token is a character."""
    return start_folder(spec, specs, runs), _by_character(start_config(spec, specs, runs))


def run_size(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> RunSize | None:
    """Numbers of a run's parameters: of the weights that lie in the model's folder, else by its config.json; None while
    neither is here."""
    found = _student_size(spec, specs, runs)
    if found is None or spec.teacher is None or spec.hyperparameters.stores_teacher:
        return found
    teacher = spec.teacher
    asked = specs[teacher] if isinstance(teacher, str) else replace(spec, start=None, model=teacher, lora=None)
    size = _student_size(asked, specs, runs)
    return None if size is None else replace(found, teacher=size.policy)


def _student_size(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> RunSize | None:
    config, folder = model_shape(spec, specs, runs), start_folder(spec, specs, runs)
    if folder is not None:
        try:
            shapes = [shape for name in find_weights(folder) for shape in read_shapes(folder / name).values()]
            vocabulary = (start_config(spec, specs, runs) or {}).get("vocab_size")
            return RunSize.of_weights(shapes, vocabulary if isinstance(vocabulary, int) else -1, spec)
        except WorkbenchError:  # the run will say so
            pass
    return RunSize.of(config, spec) if config is not None else None


def start_folder(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> Path | None:
    """The folder of the whole model that the run's chain of starts begins with; None where it is not here, or is a
    preset's, which is known without it."""
    model = _first_model(spec, specs)
    if model.preset is not None:
        return None
    folder = Path(model.path).expanduser() if model.path else runs / FOLDER / f"model-v1-{SMOLLM2_NAME}"
    if model.name is not None and model.name.lower() != SMOLLM2_NAME:
        return None
    try:
        while is_adapter(folder):
            folder = adapter_base(folder)
    except WorkbenchError:
        return None
    return folder if (folder / "config.json").is_file() else None


def start_config(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> dict[str, Any] | None:
    """The config.json of the model that the run's chain of starts begins with; None while it is not there."""
    model = _first_model(spec, specs)
    if model.preset is not None:
        return preset_config(model.preset)
    folder = start_folder(spec, specs, runs)
    return read_json(folder / "config.json") if folder is not None else None


def model_shape(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> dict[str, Any] | None:
    """The configuration that start_config gives, with a Llama's names for the fields that tell its shape; None where
    they do not."""
    config = start_config(spec, specs, runs)
    if config is None:
        return None
    for name, others in OTHER_NAMES.items():
        value = next((config[other] for other in (name, *others) if config.get(other) is not None), None)
        config |= {name: value} if value is not None else {}
    if "intermediate_size" not in config and isinstance(config.get("hidden_size"), int):
        config["intermediate_size"] = 4 * config["hidden_size"]
    needed = (*OTHER_NAMES, "vocab_size")
    return config if all(isinstance(config.get(name), int) and config[name] > 0 for name in needed) else None


def _first_model(spec: RunSpec, specs: Mapping[str, RunSpec]) -> ModelSettings:
    while spec.start is not None:
        spec = specs[spec.start]
    assert spec.model is not None
    return spec.model


def _by_character(config: Mapping[str, Any] | None) -> bool:
    """Whether the vocabulary is so small that a token is about a character."""
    size = (config or {}).get("vocab_size")
    return isinstance(size, int) and size < 1000
