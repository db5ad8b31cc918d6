"""Nothing is compared across a difference in how it was measured, and every difference is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import budget, claims, comparability
from analysis.report import write_comparison, write_report
from analysis.study import open_studies, open_study

Make = Callable[..., Path]
SMALL = {"prompts": 4, "steps": 6, "every": 3}


def change_definition(folder: Path, runs: str, change: Callable[[dict[str, Any]], Any]) -> None:
    for path in folder.glob(f"{runs}/definition.yaml"):
        definition = yaml.safe_load(path.read_text())
        change(definition)
        path.write_text(yaml.safe_dump(definition))


def change_provenance(folder: Path, runs: str, **values: Any) -> None:
    for path in folder.glob(f"{runs}/provenance.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda e: e.update(task="countdown"), "evaluate.task"),
        (lambda e: e.update(prompts=99), "evaluate.prompts"),
        (lambda e: e.update(seed=1), "evaluate.seed"),
        (lambda e: e["sampling"].update(temperature=0.7), "evaluate.sampling"),
        (lambda e: e.update(max_new_tokens=9), "evaluate.max_new_tokens"),
        (lambda e: e.update(verifier="number"), "evaluate.verifier"),
    ],
)
def test_another_way_to_evaluate_keeps_settings_apart(make_experiment: Make, change: Any, what: str) -> None:
    folder = make_experiment(betas=(0.1, 1.0, 3.0), **SMALL)
    change_definition(folder, "beta=3/seed*", lambda definition: change(definition["evaluate"]))
    study = open_study(folder)
    assert [group.labels for group in comparability.groups(study)] == [["beta = 0.1", "beta = 1"], ["beta = 3"]]
    assert [difference.what for difference in comparability.differences(study)] == [what]
    assert study.deciding is not None
    pairs = claims.compare_all(study, study.deciding)
    assert [(c.first.label, c.second.label) for c in pairs] == [("beta = 0.1", "beta = 1")]
    page = write_report(folder).read_text()
    assert f"Not comparable: {what} is" in page
    assert "Nothing is claimed across the groups" in page


def test_alike_settings_are_one_group_without_a_word(make_experiment: Make) -> None:
    study = open_study(make_experiment(betas=(0.1, 1.0), **SMALL))
    (group,) = comparability.groups(study)
    assert (group.name, group.study) == ("", study)
    assert comparability.refusals(study) == []


@pytest.mark.parametrize("name", ["verifier sort", "task sort", "sampling", "reward sort"])
def test_another_version_of_a_measure_keeps_settings_apart(make_experiment: Make, name: str) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    change_provenance(folder, "beta=0.1/seed*", measured_by={name: 1})
    change_provenance(folder, "beta=1/seed*", measured_by={name: 2})
    study = open_study(folder)
    (difference,) = comparability.differences(study)
    assert difference.text == f"version of {name} is 1 for beta = 0.1; 2 for beta = 1"


def test_a_reward_that_only_some_settings_use_keeps_none_apart(make_experiment: Make) -> None:
    folder = make_experiment(betas=(), arms=("sft", "grpo"), **SMALL)
    change_provenance(folder, "sft/seed*", measured_by={"sampling": 1})
    change_provenance(folder, "grpo/seed*", measured_by={"sampling": 1, "reward sort": 2})
    assert comparability.differences(open_study(folder)) == []


def test_another_kl_estimator_keeps_kl_apart_and_outcomes_together(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    change_provenance(folder, "beta=0.1/seed*", measured_by={"eval/kl_start": 1})
    change_provenance(folder, "beta=1/seed*", measured_by={"eval/kl_start": 2})
    study = open_study(folder)
    assert len(comparability.groups(study)) == 1
    assert len(comparability.kl_groups(study)) == 2
    assert comparability.refusals(study) == [
        "KL is not compared across: version of the KL estimator is 1 for beta = 0.1; 2 for beta = 1."
    ]
    page = write_report(folder)
    assert "against KL from the start: group A" in page.read_text()
    assert (page.parent / "figures" / "sampled_exact_match_against_kl_group_b.svg").is_file()


def test_what_older_runs_did_not_record_is_named_and_not_taken_for_equal(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    change_provenance(folder, "beta=1/seed*", measured_by={"eval/kl_start": 1})
    (text,) = comparability.refusals(open_study(folder))
    assert "not recorded for beta = 0.1; 1 for beta = 1" in text


def test_arms_of_one_experiment_may_have_different_starts_but_not_one_kl(make_experiment: Make) -> None:
    folder = make_experiment(betas=(), arms=("sft", "dpo"), **SMALL)
    change_definition(folder, "dpo/seed*", lambda definition: definition["start_from"].update(experiment="sft_longer"))
    study = open_study(folder)
    assert len(comparability.groups(study)) == 1
    assert [group.labels for group in comparability.kl_groups(study)] == [["sft"], ["dpo"]]
    assert "From these different starts" in claims.answer(study).certainty


def test_experiments_with_different_starts_are_kept_apart(make_experiment: Make, tmp_path: Path) -> None:
    first, second = (make_experiment(name, betas=(0.1, 1.0), **SMALL) for name in ("first", "second"))
    assert len(comparability.groups(open_studies([first, second]))) == 1
    change_provenance(second, "*/seed*", start={"folder": "sft_sort/main/seed0", "model_sha256": "ef" * 32})
    study = open_studies([first, second])
    assert [group.name for group in comparability.groups(study)] == ["A", "B"]
    (difference,) = comparability.differences(study)
    assert (difference.what, len(difference.values)) == ("start", 2)
    page = write_comparison([first, second], tmp_path / "out").read_text()
    assert "group A" in page
    assert "Group B (second: beta = 0.1 and second: beta = 1)" in page


def test_a_start_of_each_seed_s_own_is_one_chain(make_experiment: Make) -> None:
    first, second = (make_experiment(name, betas=(0.1,), **SMALL) for name in ("first", "second"))
    for folder in (first, second):
        for seed in range(3):
            start = {"folder": f"sft_sort/main/seed{seed}", "model_sha256": f"{seed}" * 64}
            change_provenance(folder, f"*/seed{seed}", start=start)
    assert len(comparability.groups(open_studies([first, second]))) == 1


def test_flops_of_two_versions_are_not_compared_and_outcomes_are(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(prompts=4, arms=("dpo", "grpo"), seeds=2)
    change_provenance(folder, "dpo/seed*", measured_by={"cost/flops": 4})
    change_provenance(folder, "grpo/seed*", measured_by={"cost/flops": 4})
    study = open_study(folder)
    measure = study.deciding
    assert measure is not None
    assert comparability.refusals(study) == []
    assert "cost/flops" in [cost.column for cost in budget.axes(study, measure)]
    change_provenance(folder, "grpo/seed1", measured_by={})
    study = open_study(folder)
    (text,) = comparability.refusals(study)
    assert text.startswith("FLOPs are not compared: version of how they were counted is 4 for")
    assert "not recorded for grpo" in text
    axes = [cost.column for cost in budget.axes(study, measure)]
    assert "cost/flops" not in axes
    assert "cost/trained_tokens" in axes
    assert budget.unlike_costs(study) == budget.at_equal_flops(study, measure) == []
    assert len(comparability.groups(study)) == 1
    assert claims.compare_all(study, measure) != []
    assert "FLOPs are not compared" in write_report(folder).read_text()
