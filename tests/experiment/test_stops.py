"""Requests to stop: whom they reach, how long they stand, and that none stops what was not asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.experiment.search.conftest import searched  # noqa: F401
from workbench.errors import DefinitionError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.running import runner, stops
from workbench.experiment.running.run_folder import PAUSED, RunFolder
from workbench.experiment.running.runner import Sweep, run_experiment
from workbench.locks import hold
from workbench.tracking.reader import sealed

KEYS = [f"long/main/seed{seed}" for seed in range(3)]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs folder with the plan of three runs, of which the last was paused by its search."""
    monkeypatch.setattr(stops, "WAIT_SECONDS", 0.0)
    (tmp_path / "long").mkdir()
    plan = {"runs": [{"folder": key} for key in KEYS], "starts": []}
    (tmp_path / "long/plan.json").write_text(json.dumps(sealed(plan)))
    for key in KEYS:
        (tmp_path / key).mkdir(parents=True)
    RunFolder(tmp_path, KEYS[2]).write_status(state=PAUSED)
    return tmp_path


def asked_in(runs: Path) -> list[str]:
    return [name for name in (*KEYS, "long") if stops.is_asked(runs, name)]


def test_a_run_that_is_trained_alone_is_asked_alone(runs):
    with hold(runs, KEYS[0], inside=True):
        assert stops.stop(runs, "long") == ([KEYS[0]], [KEYS[0]])
        assert asked_in(runs) == [KEYS[0]]
    stops.answered(runs, KEYS[0])
    assert asked_in(runs) == []


@pytest.mark.parametrize("shared", [False, True])
def test_where_a_command_is_at_the_experiment_what_waits_is_asked_and_a_paused_trial_is_not(runs, shared):
    with stops.heard(runs, "long"), hold(runs, "long", shared=shared, inside=True):
        assert stops.stop(runs, "long/main") == (KEYS[:2], [])
        assert asked_in(runs) == KEYS[:2]
        stops.answered(runs, KEYS[0])  # another command that shares the experiment does not train it on
        assert asked_in(runs) == KEYS[:2]
    assert asked_in(runs) == []


def test_between_two_trials_the_search_itself_is_asked(runs):
    for key in KEYS[:2]:
        folder = RunFolder(runs, key)
        folder.model.mkdir()
        (folder.model / "model.safetensors").touch()
        folder.write_status(state="finished")
    with hold(runs, "long", inside=True):
        with pytest.raises(DefinitionError, match="of which nothing is running"):
            stops.stop(runs, "long/main")
        assert stops.stop(runs, "long") == (["long"], [])
        assert stops.is_asked(runs, "long")
    stops.answered(runs, KEYS[0])  # left by a command that was killed
    assert asked_in(runs) == []


def test_a_search_that_is_asked_between_two_trials_begins_no_other(searched, monkeypatch):  # noqa: F811
    begun: list[list[str]] = []

    def run(sweep: Sweep) -> None:
        begun.append([spec.key for spec in sweep.todo.runs])
        runner.write_plan(sweep.experiment, sweep.runs, notes=[])
        assert stops.stop(sweep.runs, "search")[1] == []

    monkeypatch.setattr(Sweep, "run", run)
    assert run_experiment(searched(), Path("runs")) == 143
    assert len(begun) == 1
    assert not stops.is_asked(Path("runs"), "search")


def test_a_request_that_comes_while_the_work_is_planned_is_heeded(lab, monkeypatch):
    monkeypatch.chdir(lab)
    runs, written = Path("runs"), runner.write_plan

    def write(*arguments, **options):
        written(*arguments, **options)
        if not stops.is_asked(runs, "start"):
            assert stops.stop(runs, "start/main") == (["start/main/seed0"], [])

    monkeypatch.setattr(runner, "write_plan", write)
    assert run_experiment(load_experiment("start"), runs) == 143
    assert not RunFolder(runs, "start/main/seed0").status()
    assert not stops.is_asked(runs, "start/main/seed0")
