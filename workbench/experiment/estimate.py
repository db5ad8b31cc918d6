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

from workbench.data.reading import local_files, open_records
from workbench.data.settings import CollectData, ReadData
from workbench.data.tasks import iterate_rows
from workbench.errors import WorkbenchError
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.provenance import num_cores
from workbench.experiment.run_folder import RunFolder
from workbench.experiment.stages.cache import FOLDER
from workbench.models.presets import preset_config
from workbench.models.smollm2 import SMOLLM2_NAME
from workbench.tracking.reader import read_json

BYTES_PER_NUMBER = 4
"""float32: weights, gradients, the optimiser's state, activations."""
ACTIVATIONS_PER_LAYER = 20
"""float32 numbers kept for the backward pass, per token, layer and unit of width."""
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
    rows, tokens_per_row = _data_size(spec, characters=config is not None and config["vocab_size"] < 1000)
    batch = settings.batch_rows_per_step()
    steps_per_epoch = rows / batch if rows else None
    steps = settings.steps
    if steps is None and rows:
        steps = math.ceil(settings.epochs * math.ceil(rows / batch))
    tokens_per_step = batch * tokens_per_row if tokens_per_row else None
    size = _num_parameters(config) if config is not None else None
    trained = _num_lora(config, spec) if config is not None and spec.lora is not None else size
    if config is None or size is None or trained is None:
        return Estimate(rows, steps, steps_per_epoch, tokens_per_step, None, None, None, None)
    frozen = size - trained if spec.lora is None else size
    state = _num_state(config, spec, trained)
    flops = seconds = memory = None
    if steps and tokens_per_step:
        again = 2 * _num_hidden(config) if settings.gradient_checkpointing else 0
        flops = steps * tokens_per_step * (4 * frozen + 6 * trained + again)
        seconds = flops / speed.flops_per_second
    if tokens_per_row:
        at_once = min(batch, settings.micro_batch_rows or batch) * tokens_per_row
        activations = at_once * (_layer_activations(config, spec) + 2 * config["vocab_size"])
        reference = size if spec.lora is None and spec.start and spec.evaluate else 0
        memory = BYTES_PER_NUMBER * (2 * trained + state + frozen + reference + activations)
    disk = BYTES_PER_NUMBER * (size + (trained + state) * (settings.keep_checkpoints + bool(settings.early_stopping)))
    return Estimate(rows, steps, steps_per_epoch, tokens_per_step, flops, seconds, memory, disk)


def _data_size(spec: RunSpec, *, characters: bool) -> tuple[int | None, float | None]:
    """Rows (or pairs), and the tokens that a step computes for one; characters: a token is a character."""
    data = spec.data
    if isinstance(data, ReadData):
        lengths = _row_lengths(data, pairs=spec.hyperparameters.data_form == "pairs")
        if not lengths:
            return None, None
        per_token = 1.0 if characters else CHARACTERS_PER_TOKEN
        return len(lengths), statistics.fmean(min(length / per_token, 2.0 * data.max_tokens) for length in lengths)
    settings = data.collect if isinstance(data, CollectData) else data
    sample = list(itertools.islice(iterate_rows(settings, "train", 0), 200))
    mean = statistics.fmean(len(row.prompt) + len(row.completion) + 1 for row in sample)
    return (data.collect.pairs, 2 * mean) if isinstance(data, CollectData) else (data.rows, mean)


def _row_lengths(data: ReadData, *, pairs: bool) -> list[int]:
    """Characters that each row makes the model read; a prompt of a pair is read twice. Empty where unreadable."""
    try:
        files = local_files(data)
        if not files or not all(path.is_file() for path in files) or sum(map(_size, files)) > LARGEST_READ:
            return []
        return [
            sum(len(str(value)) * (1 + (pairs and name == "prompt")) for name, value in record.fields.items())
            for record in open_records(data)
        ]
    except WorkbenchError:
        return []


def _size(path: Path) -> int:
    return path.stat().st_size


def _model_config(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> dict[str, Any] | None:
    """The config.json of the model that the run's chain of starts begins with; None while it is not there."""
    while spec.start is not None:
        spec = specs[spec.start]
    assert spec.model is not None
    if spec.model.preset is not None:
        return preset_config(spec.model.preset)
    folder = Path(spec.model.path).expanduser() if spec.model.path else runs / FOLDER / f"model-v1-{SMOLLM2_NAME}"
    config = read_json(folder / "config.json")
    needed = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"}
    return config if config is not None and needed <= config.keys() else None


def _projections(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Inputs and outputs of one layer's matrices, in a Llama's shape."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    queries, keys = heads * size, (config.get("num_key_value_heads") or heads) * size
    attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    return [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]


def _num_parameters(config: Mapping[str, Any]) -> int:
    embeddings = config["vocab_size"] * config["hidden_size"] * (1 if config.get("tie_word_embeddings") else 2)
    return embeddings + _num_hidden(config)


def _num_hidden(config: Mapping[str, Any]) -> int:
    """Of the layers' matrices: all but embedding and head."""
    return config["num_hidden_layers"] * sum(i * o for i, o in _projections(config))


def _num_state(config: Mapping[str, Any], spec: RunSpec, trained: int) -> int:
    """Numbers beside weight and gradient: AdamW's two moments, Muon's one of a hidden matrix, averaged weights."""
    settings = spec.hyperparameters
    hidden = trained if spec.lora is not None else _num_hidden(config)
    moments = 2 * trained - (hidden if settings.optimizer == "muon" else 0)
    return moments + (trained if settings.ema_decay is not None else 0)


def _layer_activations(config: Mapping[str, Any], spec: RunSpec) -> int:
    """Numbers that the layers keep for each token; under gradient checkpointing their inputs, and all of one layer."""
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    if spec.hyperparameters.gradient_checkpointing:
        return width * (layers + ACTIVATIONS_PER_LAYER)
    return width * layers * ACTIVATIONS_PER_LAYER


def _num_lora(config: Mapping[str, Any], spec: RunSpec) -> int:
    assert spec.lora is not None
    return config["num_hidden_layers"] * sum(spec.lora.rank * (i + o) for i, o in _projections(config))
