"""A search in a lab, and runs of it finished without training: what they give is a known function of the setting."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.definition.schema import Experiment, RunSpec
from workbench.experiment.identity import identify
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.search.loop import parts

SEARCH: dict[str, Any] = {
    "trials": 4,
    "space": {"learning_rate": {"log": [1e-4, 1e-1]}, "batch_rows": {"choice": [8, 16, 32]}},
    "confirm": {"top": 2, "seeds": 3},
}


@pytest.fixture
def searched(lab: Path, define, definitions, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Experiment]:
    """searched(trials=8, ...) -> the experiment of a search with these settings beside SEARCH's."""
    monkeypatch.chdir(lab)

    def load(*, seeds: Any = 2, overrides: tuple[str, ...] = (), extra: dict[str, Any] | None = None, **settings: Any):
        sweep = {"seeds": seeds, "search": SEARCH | settings}
        define("search", definitions["start"] | {"sweep": sweep} | (extra or {}))
        return load_experiment("search", overrides)

    return load


def score(run: RunSpec) -> float:
    """Best at a learning rate of 1e-2; the seeds differ a little."""
    return 0.9 - 0.1 * abs(math.log10(run.hyperparameters.learning_rate) + 2) + 0.001 * run.seed


def finish(runs: Path, run: RunSpec, value: float) -> None:
    """A folder that says that the run is finished, with this exact match."""
    folder = RunFolder(runs, run.key)
    identity = identify(run, runs, "float32")
    folder.model.mkdir(parents=True, exist_ok=True)
    (folder.model / "model.safetensors").write_bytes(b"weights")
    rows = [{"step": 0, "eval/exact_match_sampled": 0.0, "cost/flops": 5.0, "cost/trained_tokens": 0}]
    rows += [{"step": 4, "eval/exact_match_sampled": value, "cost/flops": 105.0, "cost/trained_tokens": 10}]
    (folder.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder.write_status(state="finished", fingerprint=identity.fingerprint, identity=identity.fields)


Train = Callable[[RunSpec], float | None]


def search(
    experiment: Experiment, runs: Path, train: Train = score, *, jobs: int = 1, fresh: bool = False, most: int = 1000
) -> tuple[list[str], Experiment, list[str]]:
    """The keys that were trained in order, the whole experiment at the end, and what was said. train: None fails the
    run. most: runs after which the command is killed."""
    trained: list[str] = []
    said: list[str] = []
    whole = experiment
    for part in parts(experiment, runs, jobs=jobs, fresh=fresh, say=said.append):
        whole = part.whole
        for run in part.todo.runs:
            done = RunFolder(runs, run.key)
            if done.is_finished() and run.key not in part.fresh:
                identity = identify(run, runs, "float32")
                if done.status().get("fingerprint") == identity.fingerprint:
                    continue
            if len(trained) == most:
                return trained, whole, said
            trained.append(run.key)
            value = train(run)
            if value is not None:
                finish(runs, run, value)
    return trained, whole, said


def variants(keys: Iterable[str]) -> list[str]:
    """The variants of runs, each once, in their order."""
    return list(dict.fromkeys(key.split("/")[1] for key in keys))
