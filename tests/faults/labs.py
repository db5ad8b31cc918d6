"""Small experiments that the real command makes while something goes wrong, and what must be equal of two folders of
runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import yaml

from workbench.tracking.reader import read_rows

TRIES = max(1, int(os.environ.get("FAULT_TRIES", "2")) // 3)
"""Of each kind of fault: a command takes seconds, where a trainer's step takes milliseconds."""
SORT = {"task": "sort", "digits": 3}
EVALUATE = {**SORT, "prompts": 8, "every": 2, "max_new_tokens": 6}
START: dict[str, Any] = {
    "question": "How well does it sort?",
    "trainer": "sft",
    "model": {"preset": "tiny"},
    "data": {**SORT, "rows": 64},
    "hyperparameters": {"steps": 8, "batch_rows": 16, "learning_rate": 3e-3, "precision": "float32"},
    "evaluate": EVALUATE,
    "track": [],
}
SWEEP: dict[str, Any] = {
    "question": "Does a reward help more than pairs?",
    "start_from": "start",
    "evaluate": EVALUATE,
    "hyperparameters": {"steps": 6, "learning_rate": 1e-3, "precision": "float32", "checkpoint_every": 2},
    "track": ["tensorboard", "wandb"],
    "arms": {
        "dpo": {
            "trainer": "dpo",
            "data": {"collect": {**SORT, "pairs": 32, "samples_per_prompt": 2, "no_correct": "reference",
                                 "held_out_pairs": 8}},
            "hyperparameters": {"beta": 0.5, "batch_pairs": 8},
        },
        "grpo": {
            "trainer": "grpo",
            "data": {**SORT, "rows": 64},
            "hyperparameters": {"batch_prompts": 4, "group_size": 4, "max_new_tokens": 6,
                                "rewards": [{"length": {"target": 4}}]},
        },
    },
}  # fmt: skip


def make_lab(folder: Path) -> Path:
    """experiments/start.yaml, and experiments/sweep.yaml, which begins from it: two methods, stages, both trackers."""
    (folder / "experiments").mkdir(parents=True)
    for name, definition in (("start", START), ("sweep", SWEEP)):
        (folder / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    return folder


def define(lab: Path, name: str, definition: dict[str, Any] | str) -> None:
    """Write an experiment, as settings or as text."""
    text = definition if isinstance(definition, str) else yaml.safe_dump(definition, sort_keys=False)
    (lab / "experiments" / f"{name}.yaml").write_text(text)


def outcomes(runs: Path) -> dict[str, Any]:
    """Of every run: metrics less their clocks, completions, weights."""
    found = {}
    for run in sorted(path.parent for path in runs.glob("*/*/*/definition.yaml")):
        records = {name: read_rows(run / f"{name}.jsonl") for name in ("metrics", "completions")}
        metrics = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in records["metrics"]]
        weights = run / "model/model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None
        found[str(run.relative_to(runs))] = (metrics, records["completions"], digest)
    return found
