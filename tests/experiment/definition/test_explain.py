"""explain: every value with its origin, every convention in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.experiment.definition.explain import conventions, explain, explain_trainer, rows
from workbench.experiment.definition.resolve import load_experiment
from workbench.trainer.method import describe, formula, option_tables
from workbench.trainer.registry import get_settings_class, trainer_names

BASE = """question: How well does it sort?
trainer: sft
model: {preset: tiny}
data: {task: sort, rows: 128}
hyperparameters: {steps: 10, batch_rows: 64}
"""
DPO = """question: How tight a tie?
trainer: dpo
start_from: base
data: {collect: {task: sort, pairs: 10}}
hyperparameters: {steps: 10}
evaluate: {task: sort, prompts: 16}
sweep:
  grid: {beta: [0.1, 1]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "base.yaml").write_text(BASE)
    (folder / "x.yaml").write_text(DPO)
    return folder


@pytest.mark.usefixtures("folder")
def test_a_value_tells_its_line_the_override_or_that_it_is_a_default() -> None:
    experiment = load_experiment("x", ["steps=3"])
    origins = {row.name: (row.value, row.origin) for row in rows(experiment.runs[0], experiment)}
    assert origins["hyperparameters.steps"] == (3, "--set steps=3")
    assert origins["hyperparameters.beta"] == ([0.1, 1], "experiments/x.yaml:8")
    assert origins["hyperparameters.weight_decay"] == (0.0, "default")
    assert origins["data.collect.pairs"] == (10, "experiments/x.yaml:4")
    assert origins["start_from"] == ("base/main/seed0", "experiments/x.yaml:3")


def test_a_value_of_an_extended_file_is_marked(folder: Path) -> None:
    (folder / "longer.yaml").write_text("extends: base\nquestion: Longer?\nhyperparameters: {steps: 20}\n")
    experiment = load_experiment("longer")
    origins = {row.name: row.origin for row in rows(experiment.runs[0], experiment)}
    assert origins["hyperparameters.batch_rows"] == "experiments/base.yaml:5 (extends)"
    assert origins["hyperparameters.steps"] == "experiments/longer.yaml:3"


@pytest.mark.usefixtures("folder")
def test_every_setting_of_the_trainer_is_listed() -> None:
    experiment = load_experiment("x")
    names = {row.name for row in rows(experiment.runs[0], experiment)}
    fields = set(type(experiment.runs[0].hyperparameters).model_fields) - {"seed", "budget", "evaluate_every"}
    assert {f"hyperparameters.{field}" for field in fields} <= names


@pytest.mark.usefixtures("folder")
def test_the_conventions_say_reduction_sum_or_mean_kl_estimator_and_batch_unit() -> None:
    (run, _) = load_experiment("x").runs
    found = conventions(run)
    assert found["batch"] == "32 pairs per step"
    assert "summed over pairs, divided once by the number of pairs" in found["loss"]
    assert found["log-probabilities of a completion"].startswith("summed over its tokens")
    assert "full vocabulary" in found["eval/kl_start"]
    assert found["pairwise loss"].startswith("sigmoid: −log σ(β h) (Rafailov et al. 2023")
    (ipo, _) = load_experiment("x", ["loss=ipo"]).runs
    assert conventions(ipo)["log-probabilities of a completion"].startswith("averaged over its tokens in the loss")
    (sft,) = load_experiment("base").runs
    assert conventions(sft)["batch"] == "64 rows per step"


@pytest.mark.parametrize("trainer", trainer_names())
def test_every_trainer_states_its_conventions(trainer: str) -> None:
    assert "loss" in get_settings_class(trainer).described().conventions


@pytest.mark.parametrize("trainer", trainer_names())
def test_what_a_method_says_is_of_settings_that_there_are_and_agrees_with_them(trainer: str) -> None:
    settings_class = get_settings_class(trainer)
    told, fields = settings_class.described(), set(settings_class.model_fields)
    assert {*told.extras, *([told.tied_by] if told.tied_by else [])} <= fields
    assert "{" not in describe(told, settings_class())["formula"]
    assert told.samples == hasattr(settings_class, "sampling")
    assert told.reference or not settings_class.needs_reference


@pytest.mark.parametrize("trainer", trainer_names())
def test_a_trainer_says_what_it_is_and_every_function_that_may_be_chosen(trainer: str) -> None:
    told, text = get_settings_class(trainer).described(), explain_trainer(trainer)
    assert told.learns_from in text
    assert told.when in text
    for table in option_tables(get_settings_class(trainer)).values():
        assert [option.formula for option in table.all.values() if option.formula not in text] == []


def test_the_formula_is_of_the_options_chosen_and_of_what_is_added() -> None:
    settings_class = get_settings_class("grpo")
    plain, tied = (
        formula(settings_class.described(), settings_class.model_validate({"beta": beta, "loss": "cispo"}))
        for beta in (0.0, 0.1)
    )
    assert plain.startswith("cispo: −min(r, ratio_ceiling) A log π a token")
    assert tied == plain + "; and beta times the KL to the start, k3_ratio: π/π_old (π_ref/π − 1 − log π_ref/π)"


@pytest.mark.usefixtures("folder")
def test_the_account_is_text_with_settings_starts_and_conventions() -> None:
    text = explain(load_experiment("x"))
    assert text.startswith("x: How tight a tie?\nexperiments/x.yaml: 2 runs = 2 variants x 1 seed\n")
    for heading in (
        "\nsettings\n",
        "\nmade first, from their own definitions\n  base/main/seed0\n",
        "\nconventions of dpo\n",
    ):
        assert heading in text


MIXED = """question: Which loss?
extends: x
arms:
  plain: {}
  mixed: {hyperparameters: {loss: {sigmoid: 1.0, bco_pair: 0.5}, sync_reference_every: 5}}
"""


def test_what_a_variant_s_numbers_mean_otherwise_is_told_beside_it(folder: Path) -> None:
    (folder / "y.yaml").write_text(MIXED)
    shared, _, mixed = explain(load_experiment("y")).partition("\nconventions of mixed,beta=0.1 that differ\n")
    assert "sigmoid: −log σ(β h)" in shared
    assert "conventions of plain" not in shared
    assert "0.5 x bco_pair: " in mixed
    assert "; 1 x sigmoid: −log σ(β h)" in mixed
    assert "a copy of the start, moved towards the policy every 5 steps by the weight 1" in mixed
    assert "reward shift" in mixed
    assert "learning rate" not in mixed
