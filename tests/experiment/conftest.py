"""Small experiments written into a folder of their own, and the command line run on them."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import run
from workbench.experiment.definition.schema import hyperparameter_names
from workbench.trainer.registry import get_settings_class, trainer_names

SFT: dict[str, Any] = {
    "question": "How well does it sort?",
    "trainer": "sft",
    "model": {"preset": "tiny"},
    "data": {"task": "sort", "digits": 3, "rows": 256},
    "hyperparameters": {"steps": 4, "batch_rows": 16, "learning_rate": 3e-3, "precision": "float32"},
    "evaluate": {"task": "sort", "digits": 3, "prompts": 8, "every": 2, "max_new_tokens": 6},
    "track": [],
}
DPO: dict[str, Any] = {
    "question": "How tightly should it be tied?",
    "trainer": "dpo",
    "start_from": "start",
    "data": {
        "collect": {
            "task": "sort", "digits": 3, "pairs": 48, "samples_per_prompt": 2, "no_correct": "reference",
            "held_out_pairs": 16,
        }
    },
    "hyperparameters": {"beta": 0.5, "steps": 3, "batch_pairs": 16, "learning_rate": 1e-3, "precision": "float32"},
    "evaluate": {"task": "sort", "digits": 3, "prompts": 8, "max_new_tokens": 6},
    "sweep": {"grid": {"beta": [0.1, 1.0]}, "seeds": 2},
}  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A folder with experiments/start.yaml and experiments/sweep.yaml; runs go to its runs/."""
    write_definition(tmp_path, "start", SFT)
    write_definition(tmp_path, "sweep", DPO)
    return tmp_path


def write_definition(folder: Path, name: str, definition: dict[str, Any]) -> None:
    path = folder / "experiments" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(definition, sort_keys=False))


@pytest.fixture
def define(lab: Path) -> Callable[..., None]:
    """define(name, definition) writes another experiment."""
    return lambda name, definition: write_definition(lab, name, definition)


@pytest.fixture
def command(lab: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """command("run", "start", ...) -> the finished process of the command line, in the lab."""
    return functools.partial(run, lab)


@pytest.fixture
def definitions() -> dict[str, dict[str, Any]]:
    """The definitions of the lab, to be changed and written again."""
    import copy

    return {"start": copy.deepcopy(SFT), "sweep": copy.deepcopy(DPO)}


def trainers_with(name: str) -> str:
    """How a message names the trainers that have a hyperparameter."""
    found = [each for each in trainer_names() if name in hyperparameter_names(get_settings_class(each))]
    if len(found) == 1:
        return f"trainer {found[0]}, which has {name}"
    return f"one of the trainers {', '.join(found)}, which have {name}"


def with_trainers(text: str) -> str:
    """The text with the trainers' names in place of {TRAINERS}, and of those that have a hyperparameter in place of
    {WITH it}."""
    named = text.replace("{TRAINERS}", ", ".join(trainer_names()))
    return re.sub(r"\{WITH (\w+)\}", lambda found: trainers_with(found[1]), named)
