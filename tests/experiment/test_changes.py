"""What a plan says changed: the fields that the user wrote, before anything that follows from them."""

from __future__ import annotations

import json

import pytest

from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.identity import identify
from workbench.experiment.planning.plan import plan_runs
from workbench.experiment.running.run_folder import RunFolder


@pytest.fixture
def reason(lab, define, definitions):
    """reason(changes, ...) -> why a finished run of the definition `start` is trained anew after these changes."""

    def finish(definition):
        define("own", definition)
        [run] = load_experiment("own", folder=lab / "experiments").runs
        identity = identify(run, lab / "runs", "float32")
        folder = RunFolder(lab / "runs", run.key)
        folder.begin(run, {}, {"state": "finished", "fingerprint": identity.fingerprint, "identity": identity.fields})
        folder.model.mkdir(exist_ok=True)
        (folder.model / "model.safetensors").write_bytes(b"weights")

    def why(changes, before=None, meanwhile=lambda: None):
        old = definitions["start"] | (before or {})
        finish(old)
        meanwhile()
        define("own", old | changes)
        [run] = load_experiment("own", folder=lab / "experiments").runs
        [planned] = plan_runs([run], lab / "runs", {run.key: "float32"})
        assert planned.state == "changed"
        return planned.reason

    return why


def test_data_of_another_task_is_told_by_its_field_and_not_by_versions(reason):
    said = reason({"data": {"task": "countdown", "numbers": 3, "rows": 256}})
    assert said.split(";")[0] == "data.task was sort, is countdown"
    assert "version" not in said


def test_a_changed_evaluation_is_told_by_its_field_alone(lab, reason):
    said = reason({"evaluate": {"task": "countdown", "numbers": 3, "prompts": 8, "every": 2, "max_new_tokens": 6}})
    assert said.startswith("evaluate.task was sort, is countdown")
    assert "versions" not in said


def test_another_file_is_told_by_its_path_and_other_contents_in_words(lab, reason):
    for name in "ab":
        (lab / f"{name}.jsonl").write_text(json.dumps({"prompt": "p", "completion": name}) + "\n")
    paths = [str(lab / f"{name}.jsonl") for name in "ab"]
    first, second = ({"data": {"path": path}} for path in paths)
    assert reason(second, first).startswith("data.path was ")
    assert "data.file" not in reason(second, first)
    said = reason(
        {}, first, lambda: (lab / "a.jsonl").write_text(json.dumps({"prompt": "p", "completion": "c"}) + "\n")
    )
    assert said == "what the file at data.path holds changed"


def test_another_trainer_is_told_before_the_settings_that_come_with_it(reason):
    said = reason({"trainer": "pretrain"})
    assert said.startswith("trainer was sft, is pretrain")


def test_what_was_written_is_told_before_defaults(reason, definitions):
    given = definitions["start"]["hyperparameters"]
    changes = {"hyperparameters": {k: v for k, v in given.items() if k != "learning_rate"} | {"warmup_steps": 2}}
    assert reason(changes) == (
        "hyperparameters.warmup_steps was 0, is 2; hyperparameters.learning_rate was 0.003, is 0.001"
    )


def test_a_setting_that_decides_no_number_is_not_told(reason, definitions):
    given = definitions["start"]["hyperparameters"]
    changes = {
        "hyperparameters": given | {"keep_checkpoints": 7, "learning_rate": 0.1},
        "question": "Why?",
        "track": [],
    }
    assert reason(changes) == "hyperparameters.learning_rate was 0.003, is 0.1"


def test_a_version_is_told_as_one(reason, monkeypatch):
    said = reason({}, None, lambda: monkeypatch.setattr("workbench.data.tasks.VERSION", 99))
    assert said.startswith("made by an older version of the workbench (data.version was ")


def test_a_budget_is_told_by_its_field(reason):
    assert reason({"budget": {"tokens": 100}}).startswith('budget was nothing, is {"flops":null,"tokens":100')
