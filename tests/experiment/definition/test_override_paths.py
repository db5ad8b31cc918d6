"""Overrides of a field within a setting, alone and beside axes of the grid."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import DefinitionError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.definition.schema import Experiment

DPO = """question: How tight a tie?
trainer: dpo
model: {preset: tiny}
data: {collect: {task: sort, pairs: 10}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    return tmp_path / "experiments"


def load(folder: Path, text: str, *overrides: str) -> Experiment:
    (folder / "x.yaml").write_text(text)
    return load_experiment("x", overrides)


def problems(folder: Path, text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(DefinitionError) as caught:
        load(folder, text, *overrides)
    return caught.value.problems


def test_an_override_reaches_into_a_setting_that_is_a_mapping(folder: Path) -> None:
    for written, expected in (("hinge", {"sigmoid": 3.0}), ("{sigmoid: 1, hinge: 2}", {"sigmoid": 3.0, "hinge": 2.0})):
        text = DPO + f"arms: {{a: {{hyperparameters: {{loss: {written}}}}}}}\n"
        for key in ("loss.sigmoid", "hyperparameters.loss.sigmoid"):
            (run,) = load(folder, text, f"{key}=3").runs
            assert vars(run.hyperparameters)["loss"] == expected
    (problem,) = problems(folder, DPO, "loss.sigmold=3")
    assert problem.startswith("--set loss.sigmold=3: loss.sigmold: found an unknown key, allowed ")
    assert problem.endswith("did you mean sigmoid?")


def test_an_override_that_an_axis_would_undo_is_refused(folder: Path) -> None:
    def swept(axis):
        return DPO + f"sweep: {{grid: {{{axis}}}}}\n"

    assert problems(folder, swept("beta: [1, 2]"), "beta.x=2") == (
        "--set beta.x=2: beta.x: found it beside the axis beta, which says otherwise, allowed beta=[1, 2]",
    )
    assert problems(folder, swept("loss.sigmoid: [1, 2]"), "loss=hinge") == (
        "--set loss=hinge: loss: found it beside the axis loss.sigmoid, which says otherwise, allowed "
        "loss.sigmoid=[1, 2]",
    )
    runs = load(folder, swept("loss.sigmoid: [1, 2]"), "loss={hinge: 1}").runs
    assert [vars(run.hyperparameters)["loss"] for run in runs] == [{"hinge": 1.0, "sigmoid": n} for n in (1.0, 2.0)]
