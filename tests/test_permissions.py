"""What whoever runs a command allows reaches the run as a value, whether the command or the environment says so."""

from __future__ import annotations

import gc
import os

import pytest

from workbench import cli
from workbench.experiment.running import processes, runner
from workbench.permissions import NOTHING, Permissions

DEFINITION = "question: q\ntrainer: sft\nmodel: {preset: tiny}\ndata: {task: sort}\nhyperparameters: {steps: 1}\n"


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ((), {}, NOTHING),
        (("--inexact",), {}, Permissions(inexact=True)),
        (("--allow-reward-code",), {}, Permissions(reward_code=True)),
        ((), {"WORKBENCH_INEXACT": "1"}, Permissions(inexact=True)),
        (("--inexact",), {"WORKBENCH_REWARD_CODE": "1"}, Permissions(inexact=True, reward_code=True)),
        ((), {"WORKBENCH_INEXACT": "true", "WORKBENCH_REWARD_CODE": "0"}, NOTHING),
    ],
)
def test_command_and_environment_give_one_value_and_the_environment_stays(
    options, variables, expected, tmp_path, monkeypatch
):
    given = []
    monkeypatch.setattr(runner, "run_experiment", lambda *_, **keywords: given.append(keywords["permissions"]) or 0)
    monkeypatch.setattr(processes, "set_environment", lambda: None)
    monkeypatch.setattr(gc, "disable", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/x.yaml").write_text(DEFINITION)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert cli.main(["run", "x", *options]) == 0
    assert (given, dict(os.environ)) == ([expected], before)
