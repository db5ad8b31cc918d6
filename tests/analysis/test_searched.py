"""A search's report: nothing is claimed from trials, and from the confirmation it says how many settings were tried."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import compare
from analysis.inference.budget import compare_at_end
from analysis.inference.checkpoints import paired_tests
from analysis.inference.claims import compare_all, leaders
from analysis.measures import BY_COLUMN, STEPS
from analysis.report.pages import answer_of, describe, write_report
from analysis.report.plots import Canvas
from analysis.report.sections.search import FEWEST, Tried, importances_of, section
from analysis.study import Variant, open_study
from tests.analysis.conftest import write_experiment

BETAS = (0.1, 0.3, 1.0, 3.0, 10.0)


def searched(root: Path, confirmed: tuple[str, ...], *, complete: bool = True, confirm: Any = None) -> Path:
    """Two seeds of five trials; seeds 2 to 4 of the confirmed variants."""
    folder = write_experiment(root, betas=BETAS, seeds=5)
    plan = json.loads((folder / "plan.json").read_text())
    plan["runs"] = [run for run in plan["runs"] if run["seed"] < 2 or run["variant"] in confirmed]
    plan["axes"] = [{"name": "beta", "values": ["log 0.1 to 10"]}]
    plan["search"] = {
        "sampler": "sobol", "trials": 5, "budget": {"flops": 1e12, "tokens": None, "seconds": None},
        "spaces": [{"arm": None, "space": {"beta": {"log": [0.1, 10.0]}}}],
        "confirm": confirm, "fresh_seeds": [2, 3, 4], "complete": complete,
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def test_claims_rest_on_the_fresh_seeds_alone(tmp_path):
    study = open_study(searched(tmp_path, ("beta=1", "beta=3"), confirm={"top": 2, "seeds": 3}))
    assert [variant.name for variant in study.variants] == ["beta=1", "beta=3"]
    assert set(study.loaded.runs["seed"]) == {2, 3, 4}
    answer = answer_of(study)
    assert "over 3 seeds" in answer.result
    assert answer.grounds[0] == (
        "Chosen by a search: beta = 1 and beta = 3 of the 5 settings tried. Claims rest on fresh seeds alone, which it "
        "has not seen."
    )
    [pair] = compare_all(study, study.deciding)
    assert {pair.first.name, pair.second.name} == {"beta=1", "beta=3"}


@pytest.mark.slow
def test_the_report_lists_every_trial_beside_what_was_confirmed(tmp_path):
    folder = searched(tmp_path, ("beta=1", "beta=3"), confirm={"top": 2, "seeds": 3})
    write_report(folder)
    text = (folder / "report/report.md").read_text()
    assert "of 5 settings tried" in text
    assert "Settings tried (sobol): 5." in text
    assert "No trial began once an arm had spent 1e+12 flops" in text
    rows = (folder / "report/trials.csv").read_text().splitlines()
    assert len(rows) == 6
    assert (folder / "report/figures/search_beta.svg").exists()
    study = open_study(folder)
    [table] = section(study, Canvas(study)).tables
    assert [row[0].text for row in table.rows if row[0].tone == "best"] == ["beta = 1", "beta = 3"]


@pytest.mark.parametrize(
    ("complete", "confirm", "remedy"),
    [(False, {"top": 2, "seeds": 3}, "the same command goes on"), (True, None, "confirm: {top: 2, seeds: 5} trains")],
)
@pytest.mark.slow
def test_nothing_is_claimed_before_the_best_is_confirmed(tmp_path, complete, confirm, remedy):
    study = open_study(searched(tmp_path, (), complete=complete, confirm=confirm))
    answer = answer_of(study)
    assert "is best at beta = 1 of the 5 settings tried" in answer.result
    assert answer.certainty.startswith("Nothing is claimed, for the best of many looks better than it is")
    assert remedy in answer.certainty
    assert answer.grounds == []
    titles = [found.title for found in describe(study)["sections"]]
    assert "Search" in titles
    assert "Every setting against every other" not in titles


def test_trials_are_not_tested_in_any_way(tmp_path):
    study = open_study(searched(tmp_path, ()))
    without = replace(study, plans=[{**study.plans[0], "unconfirmed": False}])
    tests = (
        compare_all, leaders,
        lambda of, measure: compare_at_end(of, measure, STEPS),
        lambda of, _: paired_tests(of)[1],
    )  # fmt: skip
    for test in tests:
        assert test(without, study.deciding)
        assert not test(study, study.deciding)


def test_compared_from_python_trials_are_left_out_too(tmp_path):
    searched(tmp_path, ("beta=1", "beta=3"), confirm={"top": 2, "seeds": 3})
    found = compare("dpo_beta_sweep", root=tmp_path)
    assert list(found.results["finished_seeds"]) == [3, 3]
    assert "Nothing is claimed" in compare(str(searched(tmp_path / "b", ())), root=tmp_path).answer


def test_importances_need_optuna_and_trials_enough():
    assert importances_of([], {"beta": {"log": [0.1, 1]}, "rate": {"log": [0.1, 1]}}, None) == {}
    assert FEWEST > 2


def test_importances_name_the_setting_that_decides():
    pytest.importorskip("optuna")
    found = [
        Tried(
            Variant("", "", "", None, "", (("rate", (i + 1) / 100), ("rows", i * 7 % 40))), i / 40, [], "", 1, 0, False
        )
        for i in range(40)
    ]
    space = {"rate": {"linear": [0.01, 0.4]}, "rows": {"int": [0, 39]}}
    shares = importances_of(found, space, BY_COLUMN["eval/exact_match_sampled"])
    assert max(shares, key=shares.get) == "rate"
    assert importances_of(found[:5], space, BY_COLUMN["eval/exact_match_sampled"]) == {}
