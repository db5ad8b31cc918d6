"""The shape of a comparison: variants in order, finals of the model that a run left, costs that are its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.inference.comparability import differences
from analysis.study import open_studies, open_study, starts_of
from workbench.errors import DefinitionError

Make = Callable[..., Path]
SMALL = {"prompts": 4, "steps": 6, "every": 3}


def _rewrite(path: Path, change: Callable[[dict], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_variants_follow_the_axis_whatever_the_plan_s_order(make_experiment: Make) -> None:
    study = open_study(make_experiment(betas=(10.0, 0.1, 1.0), seeds=1, **SMALL))
    assert study.axis == "beta"
    assert [variant.label for variant in study.variants] == ["beta = 0.1", "beta = 1", "beta = 10"]


def test_arms_are_the_lines_of_the_axis(make_experiment: Make) -> None:
    study = open_study(make_experiment(betas=(0.1, 1.0), arms=("sft", "dpo"), seeds=1, **SMALL))
    assert [(group, len(variants)) for group, variants in study.groups()] == [("sft", 2), ("dpo", 2)]


def test_a_categorical_axis_is_no_numeric_axis(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), seeds=1, **SMALL)

    def rename(plan: dict) -> None:
        plan["axes"] = [{"name": "loss", "values": ["sigmoid", "ipo"]}]

    _rewrite(folder / "plan.json", rename)
    assert open_study(folder).axis is None


def test_finals_are_those_of_the_last_evaluated_step(make_experiment: Make) -> None:
    folder = make_experiment(betas=(1.0,), seeds=1, **SMALL)
    path = folder / "beta=1" / "seed0" / "metrics.jsonl"
    rows = [{"step": 0, "eval/loss": 3.0}, {"step": 1, "eval/loss": 2.0, "loss": 9.0}, {"step": 2, "loss": 1.0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    final = open_study(folder).finals.iloc[0]
    assert (final["step"], final["eval/loss"], final["start/eval/loss"], final["loss"]) == (1, 2.0, 3.0, 1.0)


def test_a_restored_run_is_read_at_its_best_step(make_experiment: Make) -> None:
    folder = make_experiment(betas=(1.0,), seeds=1, **SMALL)
    run = folder / "beta=1" / "seed0"
    _rewrite(run / "status.json", lambda status: status.update(restored=True, best_step=3))
    study = open_study(folder)
    rows = study.loaded.metrics.set_index("step")
    assert study.finals.iloc[0]["eval/kl_start"] == rows.loc[3, "eval/kl_start"] != rows.loc[6, "eval/kl_start"]


def test_only_finished_runs_enter_a_statistic(make_experiment: Make) -> None:
    study = open_study(make_experiment(betas=(1.0,), seeds=3, states={("beta=1", 1): "diverged"}, **SMALL))
    assert len(study.values("beta=1", "eval/kl_start")) == 2
    assert len(study.values("beta=1", "eval/kl_start", finished=False)) == 3


def test_own_costs_are_the_last_row_less_the_first(make_experiment: Make) -> None:
    folder = make_experiment(betas=(1.0,), seeds=1, **SMALL)
    path = folder / "beta=1" / "seed0" / "metrics.jsonl"
    rows = [{"step": 0, "cost/flops": 50.0}, {"step": 1, "cost/flops": 60.0}, {"step": 2, "cost/flops": 75.0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert open_study(folder).finals.iloc[0]["cost/flops"] == 25.0


def test_a_missing_run_is_no_second_start(make_experiment: Make) -> None:
    study = open_study(make_experiment(betas=(1.0,), seeds=2, states={("beta=1", 1): "missing"}, **SMALL))
    assert len(starts_of(study)) == 1
    assert not math.isnan(study.start_value("eval/exact_match_greedy"))


def test_without_a_plan_the_folders_are_shown_and_it_is_said(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), seeds=2, **SMALL)
    (folder / "plan.json").unlink()
    study = open_study(folder)
    assert len(study.loaded.runs) == 4
    assert "plan.json is missing" in study.notes[0]


def test_an_experiment_that_never_ran_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="make exp NAME=nothing"):
        open_study(tmp_path / "nothing")


def test_several_experiments_keep_their_variants_apart(make_experiment: Make) -> None:
    first = make_experiment("first", betas=(0.1,), seeds=1, **SMALL)
    second = make_experiment("second", betas=(0.1,), seeds=1, **SMALL)
    study = open_studies([first, second])
    assert [variant.name for variant in study.variants] == ["first/beta=0.1", "second/beta=0.1"]
    assert all(len(study.values(variant, "eval/kl_start")) == 1 for variant in study.variants)


def test_a_difference_in_evaluation_is_found_and_its_frequency_is_none(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), seeds=1, **SMALL)
    path = folder / "beta=1" / "seed0" / "definition.yaml"
    path.write_text(path.read_text().replace("every: 20", "every: 10"))
    assert not differences(open_study(folder))
    path.write_text(path.read_text().replace("prompts: 48", "prompts: 99"))
    (found,) = differences(open_study(folder))
    assert found.what == "evaluate.prompts"
    assert found.values == {"48": ["beta = 0.1"], "99": ["beta = 1"]}


def test_a_swept_mapping_or_list_is_known_by_its_text(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), seeds=1, **SMALL)
    losses = ["sigmoid", {"sigmoid": 1.0, "bco_pair": 0.5}]

    def sweep(plan: dict) -> None:
        plan["axes"] = [{"name": "loss", "values": losses}]
        for run, loss in zip(plan["runs"], losses, strict=True):
            run["point"] = {"loss": loss}

    _rewrite(folder / "plan.json", sweep)
    variants = open_study(folder).variants
    assert [variant.label for variant in variants] == ["loss = sigmoid", "loss = {sigmoid: 1, bco_pair: 0.5}"]
    assert len(set(variants)) == 2
