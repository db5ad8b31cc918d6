"""Law 4: every file in experiments/ loads, plans and trains two steps; what is absent here has a stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from workbench.data.settings import TaskData
from workbench.data.tasks import make_rows
from workbench.experiment.definition.resolve import load_experiment

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
SMALL = {"evaluate": {"prompts": 16, "every": 1}, "data": {"rows": 512}, "collect": {"pairs": 32, "held_out_pairs": 16}}
MAX_BATCH = 16


def shrink(definition: dict[str, Any]) -> dict[str, Any]:
    """The same experiment of two steps on few rows; a model or file that is not at hand is replaced."""
    for part in (definition, *definition.get("arms", {}).values()):
        settings = part.get("hyperparameters")
        if settings is not None:
            settings |= {name: min(value, MAX_BATCH) for name, value in settings.items() if name.startswith("batch_")}
        data = part.get("data", {})
        if "rows" in data:
            data |= SMALL["data"]
        if "collect" in data:
            # Two steps leave a start that is never right: its answers come from the task.
            data["collect"] |= SMALL["collect"] | {"no_correct": "reference"}
        if "path" in data:
            data["path"] = "train.jsonl"
        if "evaluate" in part:
            part["evaluate"] |= {k: v for k, v in SMALL["evaluate"].items() if k in part["evaluate"] or k == "every"}
            part["evaluate"] |= {"pairs": "test.jsonl"} if "pairs" in part["evaluate"] else {}
        if "name" in part.get("model", {}):
            part["model"] = {"preset": "tiny"}
    definition.setdefault("hyperparameters", {})["steps"] = 2
    return definition


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_definition_asks_for_no_more_prompts_than_its_tasks_have(name):
    for run in load_experiment(name, folder=ROOT / "experiments").runs:
        if isinstance(run.data, TaskData):
            assert len(make_rows(run.data, "train", run.data.rows, run.data.seed)) == run.data.rows
        if run.evaluate is not None and run.evaluate.task is not None:
            task = TaskData(task=run.evaluate.task, digits=run.evaluate.digits, numbers=run.evaluate.numbers)
            assert len(make_rows(task, "held_out", run.evaluate.prompts, run.evaluate.seed)) == run.evaluate.prompts


@pytest.mark.multi
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_definition_trains_two_steps(tmp_path, name):
    (tmp_path / "experiments").mkdir()
    for other in NAMES:
        definition = yaml.safe_load((ROOT / f"experiments/{other}.yaml").read_text())
        (tmp_path / f"experiments/{other}.yaml").write_text(yaml.safe_dump(shrink(definition), sort_keys=False))
    pairs = [{"prompt": f"add {i}: ", "chosen": f"{i + 1}", "rejected": f"{i}x"} for i in range(40)]
    for file in ("train.jsonl", "test.jsonl"):
        (tmp_path / file).write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    for command in ("plan", "explain", "run"):
        done = subprocess.run(
            [sys.executable, "-m", "workbench.cli", command, name],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    planned = json.loads((tmp_path / f"runs/{name}/plan.json").read_text())["runs"]
    for run in planned:
        status = json.loads((tmp_path / "runs" / run["folder"] / "status.json").read_text())
        assert (status["state"], status["step"]) == ("finished", 2)
    assert (tmp_path / f"runs/{name}/report/index.html").stat().st_size > 10_000
