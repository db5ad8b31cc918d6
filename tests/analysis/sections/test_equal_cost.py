"""Comparisons at equal cost and what runs rest on, by hand."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import stats
from analysis.inference import budget
from analysis.measures import BY_COLUMN, COSTS, STEPS
from analysis.report.pages import write_report
from analysis.report.sections import costs, equal_cost
from analysis.study import open_study

Make = Callable[..., Path]
FLOPS = BY_COLUMN["cost/flops"]
BASE, SFT = "pretrain_tiny/main/seed0", "sft_sort/main/seed0"
JUDGE = "reward_model_sort/main/seed0"


def test_settings_are_tested_where_the_common_range_ends(make_budget_experiment: Make) -> None:
    study = open_study(make_budget_experiment())
    assert study.deciding is not None
    found = budget.compare_at_end(study, study.deciding, FLOPS)
    assert len(found) == 6
    curves = budget.curves(study, study.deciding, FLOPS)
    _, high = budget.common_range(curves)
    first, second = (
        [stats.value_at(c.costs, c.values, high) for c in curves if c.variant.name == name]
        for name in ("continued_sft", "dpo")
    )
    assert found[0].test == stats.welch(first, second)
    assert [c.adjusted for c in found] == stats.holm([c.test.p for c in found])


def test_a_cost_that_one_setting_does_not_spend_compares_the_others(make_budget_experiment: Make) -> None:
    study = open_study(make_budget_experiment())
    assert study.deciding is not None
    pairs = budget.compare_at_end(study, study.deciding, BY_COLUMN["cost/generated_tokens"])
    assert [(c.first.name, c.second.name) for c in pairs] == [("grpo", "ppo")]


def test_without_a_common_range_nothing_is_compared(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(arms=("continued_sft", "dpo"), steps=10)
    study = open_study(folder)
    assert study.deciding is not None
    # DPO begins at what collecting cost, beyond all that SFT spent.
    assert budget.compare_at_end(study, study.deciding, FLOPS) == []
    assert budget.at_equal_flops(study, study.deciding) == []


def test_unlike_final_costs_are_answered_at_equal_flops(make_budget_experiment: Make) -> None:
    study = open_study(make_budget_experiment(arms=("continued_sft", "grpo")))
    assert study.deciding is not None
    assert budget.unlike_costs(study) != []
    (text,) = budget.at_equal_flops(study, study.deciding)
    assert text.startswith("At equal FLOPs (1.20×10¹¹")
    assert "grpo is better than continued_sft" in text


def test_seldom_evaluations_are_named(make_budget_experiment: Make) -> None:
    study = open_study(make_budget_experiment(arms=("continued_sft", "grpo"), every=25))
    assert study.deciding is not None
    (text,) = budget.coarse(study, study.deciding)
    assert "continued_sft (4)" in text
    assert len(budget.curves(study, study.deciding, STEPS)) == 6


def test_every_test_is_in_the_file(make_budget_experiment: Make) -> None:
    study = open_study(make_budget_experiment())
    assert study.deciding is not None
    table = equal_cost.comparisons(study, study.deciding)
    assert table is not None
    # Six pairs on every axis, one where only two settings generate.
    assert len(table.plain) == 4 * 6 + 1
    assert {row["axis"] for row in table.plain} == set(budget.AXES)


def change(path: Path, changes: dict[str, Any]) -> None:
    """Lay changes over a file of a run."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def two_stages_beside_one(make_budget_experiment: Make) -> Path:
    """Arms of which dpo begins from an SFT run, and orpo from the model that this run began from."""
    folder = make_budget_experiment(arms=("orpo", "dpo"), seeds=2)
    begun = {f"methods/orpo/seed{seed}": BASE for seed in (0, 1)} | {f"methods/dpo/seed{seed}": SFT for seed in (0, 1)}
    for run, start in (begun | {SFT: BASE}).items():
        path = folder.parent / run / "provenance.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"start": {"folder": start}}))
    spent: dict[str, Any] = {
        "flops": 8.0e10,
        "trained_tokens": 500,
        "generated_tokens": 70,
        "seconds": 40.0,
        "inherited": {"collect": {"flops": 1.0e10}},
    }
    path = folder.parent / SFT / "status.json"
    # A run's status has the wall clock's seconds too, evaluation among them.
    path.write_text(json.dumps(json.loads(path.read_text()) | {"costs": spent, "seconds": 1000.0}))
    return folder


def test_the_sft_stage_is_charged_to_dpo_and_not_to_orpo_which_needs_none(two_stages_beside_one: Path) -> None:
    study = open_study(two_stages_beside_one)
    assert study.deciding is not None

    def begins(column: str) -> dict[str, float]:
        measure = next(cost for cost in (*COSTS, STEPS) if cost.column == column)
        return {curve.variant.name: curve.costs[0] for curve in budget.curves(study, study.deciding, measure)}

    # DPO's pairs cost 1.1e11 besides; the model that both rest on is charged to neither.
    assert begins("cost/flops") == {"orpo": 0.0, "dpo": 8.0e10 + 1.0e10 + 1.1e11}
    assert begins("cost/trained_tokens") == {"orpo": 0.0, "dpo": 500.0}
    assert begins("time/seconds") == {"orpo": 0.0, "dpo": 40.0}
    assert begins("step") == {"orpo": 0.0, "dpo": 0.0}
    (text,) = budget.unlike_costs(study)
    assert "at dpo, what was inherited included" in text
    (start,) = [row for row in costs.table(study).rows if row[0].text == f"start {SFT}"]
    assert start[0].lines == ("of dpo",)


@pytest.mark.parametrize(
    ("role", "said"),
    [("reward model", {"judges": [JUDGE]}), ("sampler", {"sources": [JUDGE]}), ("teacher", {})],
)
def test_what_one_setting_alone_rests_on_is_charged_to_it_in_full(make_budget_experiment: Make, role, said) -> None:
    folder = make_budget_experiment(arms=("grpo", "continued_sft"), seeds=2)
    judge = folder.parent / JUDGE
    shutil.copytree(folder.parent / SFT, judge)
    spent = {"flops": 3.0e10, "trained_tokens": 50, "generated_tokens": 0, "seconds": 4.0}
    change(judge / "status.json", {"costs": spent | {"inherited": {"collect": {"flops": 1.0e10}}}})
    change(judge / "provenance.json", {"start": {"folder": SFT}})
    change(folder.parent / SFT / "status.json", {"costs": spent | {"inherited": {}}})
    change(folder / "plan.json", {"starts": [{"folder": SFT}, {"folder": JUDGE}]})
    for run in sorted(folder.glob("*/seed*")):
        change(run / "provenance.json", {"start": {"folder": SFT}})
        if run.parent.name == "grpo":
            change(run / "provenance.json", {"teacher": {"folder": JUDGE}} if role == "teacher" else {})
            path = run / "definition.yaml"
            path.write_text(path.read_text() + "".join(f"{name}: {keys}\n" for name, keys in said.items()))
    study = open_study(folder)
    assert study.deciding is not None
    flops = {curve.variant.name: curve.costs[0] for curve in budget.curves(study, study.deciding, FLOPS)}
    assert flops == {"continued_sft": 0.0, "grpo": 4.0e10}
    rows = costs.table(study).rows
    assert {row[0].text: row[0].lines for row in rows[:2]} == {
        f"start {SFT}": ("shared by all",),
        f"{role} {JUDGE}": ("of grpo",),
    }
    flat = {(row["what"], row["part"]): row["flops"] for row in costs.table(study).plain}
    own = flat["grpo", "own"]
    # The judge's stage is charged wherever the judge is, in the row of its own too.
    assert flat[f"{role} {JUDGE}", "own"] == 4.0e10
    assert flat["grpo", "with all it rests on"] == pytest.approx(own + 4.0e10 + 3.0e10)
    assert flat["grpo", "amortised"] == pytest.approx(own + 4.0e10 / 2 + 3.0e10 / 4)


def test_a_start_of_which_no_cost_is_recorded_is_not_taken_for_free(two_stages_beside_one: Path) -> None:
    shutil.rmtree(two_stages_beside_one.parent / "sft_sort")
    study = open_study(two_stages_beside_one)
    assert study.deciding is not None
    assert budget.curves(study, study.deciding, FLOPS) == []
    assert any("FLOPs: what a start spent" in text for text in budget.refusals(study))


def test_what_runs_rest_on_is_charged_in_full_and_shared_out(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(arms=("continued_sft", "dpo"), seeds=2)
    start = folder.parent / "sft_sort" / "main" / "seed0" / "status.json"
    status = json.loads(start.read_text())
    status["costs"] = {"flops": 8.0e10, "inherited": {}}
    start.write_text(json.dumps(status))
    rows = {
        (row["what"], row["part"]): float(row["flops"])
        for row in csv.DictReader((write_report(folder).parent / "costs.csv").read_text().splitlines())
    }
    own = rows["dpo", "own"]
    assert rows["start sft_sort/main/seed0", "own"] == 8.0e10
    assert rows["dpo", "charged in full"] == pytest.approx(own + 1.1e11)
    assert rows["dpo", "with all it rests on"] == pytest.approx(own + 1.1e11 + 8.0e10)
    # Both of dpo's runs used the pairs, all four runs the start. (Provenance names one "collect" for all runs here.)
    assert rows["dpo", "amortised"] == pytest.approx(own + 1.1e11 / 4 + 8.0e10 / 4)
    assert rows["continued_sft", "amortised"] == pytest.approx(rows["continued_sft", "own"] + 8.0e10 / 4)
    assert ("continued_sft", "charged in full") not in rows, "it inherits nothing"
