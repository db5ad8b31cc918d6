# ruff: noqa: E501 - a case of the table is one line
"""A definition's search: what it becomes, and what its mistakes print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workbench.errors import DefinitionError
from workbench.experiment.definition.explain import explain
from workbench.experiment.definition.resolve import load_experiment

TEXT = """question: Which rate?
trainer: sft
model: {preset: tiny}
data: {task: sort, rows: 128}
hyperparameters: {steps: 10, learning_rate: 1e-3}
evaluate: {task: sort, prompts: 16, every: 5}
sweep:
  seeds: [3, 5]
  search:
    trials: 4
    space:
      learning_rate: {log: [1e-4, 1e-2]}
      batch_rows: {choice: [8, 16]}
    confirm: {top: 2, seeds: 3}
"""


def load(folder: Path, text: str = TEXT, *overrides: str):
    (folder / "experiments").mkdir(exist_ok=True)
    (folder / "experiments/x.yaml").write_text(text)
    return load_experiment("x", overrides, folder / "experiments")


def test_a_search_becomes_runs_of_all_its_seeds_and_fresh_ones_come_after_them(tmp_path):
    experiment = load(tmp_path)
    assert len(experiment.runs) == 8
    assert {run.seed for run in experiment.runs} == {3, 5}
    assert experiment.search.fresh_seeds == (6, 7, 8)
    assert all(run.variant.startswith("learning_rate=0.00") for run in experiment.runs)
    told = explain(experiment)
    assert re.search(r'hyperparameters.learning_rate +\["log 0.0001 to 0.01"\] +experiments/x.yaml:12', told)
    assert re.search(r"sweep.search.trials +4 +experiments/x.yaml:10", told)
    assert re.search(r"sweep.search.sampler +random +default", told)


def test_an_override_of_a_searched_setting_takes_it_out_of_the_space(tmp_path):
    experiment = load(tmp_path, TEXT, "batch_rows=4", "sweep.search.trials=2", "seeds=1")
    assert len(experiment.runs) == 2
    assert {run.hyperparameters.batch_rows for run in experiment.runs} == {4}
    assert {tuple(run.point) for run in experiment.runs} == {("learning_rate",)}


WITH_ARMS = TEXT + "arms: {a: {}, b: {}}\n"
NAMES = "one of log, linear, int, choice"
CASES = [
    ("trials: 4", "trials: 0", "10: sweep.search.trials: found 0, allowed numbers > 0"),
    ("trials: 4", "trails: 4", "10: sweep.search.trails: found an unknown key, allowed sampler, trials, space, seed, budget, halving, confirm, did you mean trials?"),
    ("trials: 4", "sampler: grid", "10: sweep.search.sampler: found 'grid', allowed random, sobol or tpe"),
    ("trials: 4", "trials: 900", "10: sweep.search.trials: found 1,806 runs, allowed at most 1,000"),
    ("trials: 4", "budget: {}", "10: sweep.search.budget: a budget needs one of flops, tokens, seconds"),
    ("[1e-4, 1e-2]", "[1e-2, 1e-4]", "12: sweep.search.space.learning_rate: log: found [0.01, 0.0001], allowed a lower number and a higher one"),
    ("[1e-4, 1e-2]", "[0, 1e-2]", "12: sweep.search.space.learning_rate.log[0]: found 0, allowed numbers > 0"),
    ("{log: [1e-4, 1e-2]}", "[1e-4, 1e-2]", "12: sweep.search.space.learning_rate: found a list, allowed a mapping"),
    ("{log: [1e-4, 1e-2]}", "{}", f"12: sweep.search.space.learning_rate: found nothing, allowed {NAMES}"),
    ("{log: [1e-4, 1e-2]}", "{log: [1, 2], int: [1, 2]}", f"12: sweep.search.space.learning_rate: found log and int, allowed {NAMES}"),
    ("{log: [1e-4, 1e-2]}", "{linear: [-1, 1]}", "12: sweep.search.space.learning_rate: found -1.0, allowed numbers >= 0"),
    ("learning_rate: {log", "learning_rat: {log", "12: sweep.search.space.learning_rat: "),
    ("learning_rate: {log", "evaluate.prompts: {log", "12: sweep.search.space.evaluate.prompts: found a setting of evaluate, allowed what is trained: all trials are measured alike"),
    ("learning_rate: {log", "arms.a.learning_rate: {log", "12: sweep.search.space.arms.a.learning_rate: found 'arms.a.learning_rate', allowed arms.NAME.setting of a definition with arms"),
    ("{choice: [8, 16]}", "{choice: [8, 8]}", "13: sweep.search.space.batch_rows: choice: found [8, 8], allowed each value once"),
    ("{choice: [8, 16]}", "{choice: [8, 8.0]}", "13: sweep.search.space.batch_rows.choice[1]: found 8.0 again, allowed each value once"),
    ("{choice: [8, 16]}", "{choice: [8, 0]}", "13: sweep.search.space.batch_rows.choice[1]: found 0, allowed numbers > 0"),
    ("{choice: [8, 16]}", "{log: [8, 16]}", "13: sweep.search.space.batch_rows: found 11.31, allowed a whole number"),
    ("{top: 2, seeds: 3}", "{top: 5, seeds: 3}", "14: sweep.search.confirm: found the top 5 of 4 trials, allowed fewer"),
    ("{top: 2, seeds: 3}", "{top: 2, seeds: 1}", "14: sweep.search.confirm.seeds: found 1, allowed numbers >= 2"),
    ("  search:", "  grid: {weight_decay: [0, 1]}\n  search:", "10: sweep.search: found together with sweep.grid, allowed one of them"),
    ("      learning_rate: {log: [1e-4, 1e-2]}\n", "", "10: sweep.search.trials: found 4, allowed at most 2, for the space holds no more (sweep.grid tries them all)"),
    ("evaluate: {task: sort, prompts: 16, every: 5}", "track: []", "9: sweep.search: found without evaluate, allowed with a held-out measure, which decides"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "line"), CASES, ids=[case[1][:40] for case in CASES])
def test_a_mistake_is_one_line_that_names_its_place(tmp_path, before, after, line):
    assert before in TEXT
    with pytest.raises(DefinitionError) as raised:
        load(tmp_path, TEXT.replace(before, after))
    lines = str(raised.value).splitlines()
    assert any(found.startswith(f"experiments/x.yaml:{line}") for found in lines), lines
    assert len(lines) <= 3


def test_an_arm_of_the_space_that_the_file_does_not_have_is_named(tmp_path):
    text = WITH_ARMS.replace("learning_rate: {log", "arms.c.learning_rate: {log")
    with pytest.raises(DefinitionError, match=r"allowed arms.NAME.setting of a, b"):
        load(tmp_path, text)


def test_fixing_all_that_is_searched_leaves_nothing_to_search(tmp_path):
    with pytest.raises(DefinitionError, match="found nothing to search"):
        load(tmp_path, TEXT, "batch_rows=4", "learning_rate=0.1")


def test_tpe_without_optuna_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DefinitionError, match="needs the package optuna") as raised:
        load(tmp_path, TEXT.replace("trials: 4", "trials: 4\n    sampler: tpe"))
    assert str(raised.value).startswith("experiments/x.yaml:11: sweep.search.sampler: found tpe")
