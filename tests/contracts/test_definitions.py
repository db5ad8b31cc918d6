"""Law 4: every file in experiments/ loads, plans and trains two steps; what is absent here has a stand-in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import Command
from workbench.data.settings import TaskData
from workbench.data.tasks import make_rows
from workbench.experiment.definition.resolve import load_experiment
from workbench.models.presets import make_preset

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
SMALL = {"data": {"rows": 512}, "collect": {"pairs": 32, "held_out_pairs": 16}}
SMALL_EVALUATE = {"prompts": 16, "max_new_tokens": 4}
"""Two steps teach no model to end a completion: it would be as long as it may be."""
MAX_BATCH, MAX_GROUP, MAX_NEW_TOKENS = 16, 4, 16
MANY_VARIANTS = 3
"""With more of them, one seed of each tells what two would."""
# Two steps leave a start that is never right: completions differ in length, so that an online trainer has a signal.
SIGNAL = {"length": {"target": 3}, "name": "signal"}
# Rows of the files that definitions name, <kind>_train.jsonl and <kind>_test.jsonl.
STAND_INS: dict[str, Callable[[int], dict[str, Any]]] = {
    "preferences": lambda i: {"prompt": f"add {i}: ", "chosen": f"{i + 1}", "rejected": f"{i}x"},
    "gsm8k": lambda i: {"question": f"What is {i}+1?", "answer": f"{i}+1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"},
    "messages": lambda i: {
        "messages": [{"role": "user", "content": f"add {i}"}, {"role": "assistant", "content": f"{i + 1}"}]
    },
}
TEMPLATE = (
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def shrink(definition: dict[str, Any]) -> dict[str, Any]:
    """The same experiment of two steps on few rows; a model that is not at hand is replaced."""
    for part in (definition, *definition.get("arms", {}).values()):
        settings = part.get("hyperparameters")
        if settings is not None:
            settings |= {name: min(value, MAX_BATCH) for name, value in settings.items() if name.startswith("batch_")}
            settings |= {"steps": 2} if "steps" in settings else {}
            if "batch_prompts" in settings:
                data = part.get("data") or definition["data"]
                _shrink_rollouts(settings, data.get("mix", [data])[0].get("task"))
        data = part.get("data", {})
        if "rows" in data:
            data |= SMALL["data"]
        if "collect" in data:
            # Two steps leave a start that is never right: its answers come from the task.
            pairs = SMALL["collect"] | {"no_correct": "reference"}
            data["collect"] |= {"completions": 32} if "completions" in data["collect"] else pairs
        held_out = part.get("evaluate", [])
        for one in held_out if isinstance(held_out, list) else [held_out]:
            one |= {"every": 2} | (SMALL_EVALUATE if "prompts" in one else {})
        if "name" in part.get("model", {}):
            part["model"] = {"path": "model"}
    definition.pop("threads", None)  # each worker of the tests has one core
    definition["track"] = []  # what trackers show is not of a definition's making
    hyperparameters = definition.setdefault("hyperparameters", {})
    hyperparameters.pop("epochs", None)
    hyperparameters["steps"] = 2
    if "sweep" in definition:
        seeds = definition["sweep"].get("seeds", 1)
        axes = [definition.get("arms", {"one": {}}), *definition["sweep"].get("grid", {}).values()]
        most = 1 if math.prod(map(len, axes)) > MANY_VARIANTS else 2
        definition["sweep"]["seeds"] = seeds[:most] if isinstance(seeds, list) else min(seeds, most)
        if "search" in definition["sweep"]:
            definition["sweep"]["search"] |= {"trials": 2, "confirm": {"top": 1, "seeds": 2}, "halving": None}
    return definition


def _shrink_rollouts(settings: dict[str, Any], task: str | None) -> None:
    """Few and short completions, and a reward beside the check that they have from the first step."""
    for name, most in (("group_size", MAX_GROUP), ("max_new_tokens", MAX_NEW_TOKENS)):
        settings |= {name: min(settings[name], most)} if name in settings else {}
    settings["rewards"] = [*settings.get("rewards", [{"reward": task}]), SIGNAL]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_definition_asks_for_no_more_prompts_than_its_tasks_have(name):
    asked: list[Any] = []
    for run in load_experiment(name, folder=ROOT / "experiments").runs:
        if isinstance(run.data, TaskData):
            asked.append((run.data, "train", run.data.rows, run.data.seed))
        if run.evaluate is not None and run.evaluate.task is not None:
            asked.append((run.evaluate.task_settings, "held_out", run.evaluate.prompts, run.evaluate.seed))
    for task, split, rows, seed in {repr(one): one for one in asked}.values():
        assert len(make_rows(task, split, rows, seed)) == rows


@pytest.fixture(scope="session")
def shipped(once: Callable[..., Path]) -> Path:
    """A folder of the shipped definitions, cut to two steps. All processes of the tests share it, so that a start is
    trained once, as it is for a user."""
    return once("shipped", write_definitions)


def write_definitions(folder: Path) -> Path:
    (folder / "experiments").mkdir()
    for name in NAMES:
        definition = yaml.safe_load((ROOT / f"experiments/{name}.yaml").read_text())
        (folder / f"experiments/{name}.yaml").write_text(yaml.safe_dump(shrink(definition), sort_keys=False))
    for kind, row in STAND_INS.items():
        for file in (f"{kind}_train.jsonl", f"{kind}_test.jsonl"):
            (folder / file).write_text("".join(json.dumps(row(i)) + "\n" for i in range(40)))
    make_preset("tiny", folder / "model", seed=0)
    (folder / "model/chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.mark.multi
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_definition_trains_two_steps(shipped, name):
    for command in ("plan", "explain", "run"):
        code, output = Command(shipped, command, name).end(180.0)
        assert code == 0, output
    planned = json.loads((shipped / f"runs/{name}/plan.json").read_text())["runs"]
    for run in planned:
        status = json.loads((shipped / "runs" / run["folder"] / "status.json").read_text())
        assert (status["state"], status["step"]) == ("finished", 2)
    assert (shipped / f"runs/{name}/report/index.html").stat().st_size > 10_000
