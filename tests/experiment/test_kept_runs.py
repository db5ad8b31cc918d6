"""What an edit costs: a good run stays until all that takes its place is there, and comes back with its definition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.multi, pytest.mark.slow]
ROWS = [{"prompt": f"say {n}: ", "completion": str(n % 7)} for n in range(32)]


def weights(run: Path) -> bytes:
    return (run / "model/model.safetensors").read_bytes()


def event_files(run: Path) -> list[Path]:
    return list(run.glob("tensorboard/*.tfevents.*"))


def test_a_mistaken_edit_loses_nothing_and_undoing_it_trains_nothing(lab, command, define, definitions):
    run, definition = lab / "runs/start/main/seed0", definitions["start"] | {"track": ["tensorboard"]}
    define("start", definition)
    assert command("run", "start").returncode == 0
    good = weights(run)
    define("start", definition | {"data": {"path": "nowhere.jsonl"}})
    done = command("run", "start")
    assert (done.returncode, "nowhere.jsonl: no such file" in done.stderr) == (2, True), done.stderr
    (lab / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\nnot json\n")
    define("start", definition | {"data": {"path": "rows.jsonl"}})
    done = command("run", "start")
    assert (done.returncode, "rows.jsonl:2: is not JSON" in done.stderr) == (2, True), done.stderr
    assert weights(run) == good
    assert not (lab / "runs/.superseded").exists()
    report = (lab / "runs/start/report/report.md").read_text()
    assert "is shown as it was made before: as it is defined now it failed" in report
    assert "rows.jsonl:2" in report
    assert "as it is defined now it failed: rows.jsonl:2" in command("status", "start").stdout
    changed = definition | {"hyperparameters": definition["hyperparameters"] | {"learning_rate": 1e-3}}
    define("start", changed)
    done = command("run", "start")
    assert "hyperparameters.learning_rate was 0.003, is 0.001; the old one is now" in done.stderr
    assert weights(run) != good
    assert event_files(run), "the new run is followed, though the old one had ended"
    define("start", definition)
    assert "taken back" in command("plan", "start").stdout
    done = command("run", "start")
    assert (done.returncode, "was taken back" in done.stderr) == (0, True), done.stderr
    assert "started" not in done.stderr
    assert weights(run) == good
    assert event_files(run)
    assert len(list((lab / "runs/.superseded/start/main").iterdir())) == 1


def test_a_run_that_failed_before_it_began_says_why_afterwards(lab, command, define, definitions):
    define("lost", definitions["start"] | {"data": {"path": "nowhere.jsonl"}})
    done = command("run", "lost")
    assert done.returncode == 2
    assert "nowhere.jsonl: no such file" in command("status", "lost").stdout
    report = (lab / "runs/lost/report/report.md").read_text()
    assert "1 failed" in report
    assert "nowhere.jsonl: no such file" in report


def test_the_longest_names_that_a_definition_may_have_run_and_are_tracked(lab, command, define, definitions):
    name, arm, definition = "e" * 100, "a" * 100, definitions["start"]
    hyperparameters = definition["hyperparameters"] | {"steps": 1}
    sweep = {"grid": {"learning_rate": [0.001], "max_grad_norm": [0.123456789], "adam_epsilon": [1.2345e-8]}}
    define(name, definition | {"hyperparameters": hyperparameters, "arms": {arm: {}}, "sweep": sweep,
                               "track": ["tensorboard", "wandb"]})  # fmt: skip
    overrides = ("--set", "weight_decay=0.012345678901234567", "max_grad_norm=0.987654321", "warmup_steps=0")
    assert command("plan", name, *overrides).returncode == 0
    done = command("run", name, *overrides)
    assert done.returncode == 0, done.stderr
    [run] = (lab / "runs").glob("e*/a*/seed0")
    assert len(str(run.relative_to(lab / "runs"))) > 300
    assert event_files(run)
    assert list(run.glob("wandb/wandb/offline-run-*")) or list(run.glob("wandb/offline-run-*"))
    assert not [path for path in run.glob("*/*.log") if "dropped" in path.read_text(errors="replace")]
