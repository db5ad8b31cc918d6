"""Nothing is compared across a difference in how it was measured, and every difference is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.inference import budget, claims, comparability
from analysis.report.pages import write_comparison, write_report
from analysis.report.sections import results
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
        pytest.param(lambda e: e.update(prompts=99), "evaluate.prompts", marks=pytest.mark.slow),
        pytest.param(lambda e: e.update(seed=1), "evaluate.seed", marks=pytest.mark.slow),
        (lambda e: e["sampling"].update(temperature=0.7), "evaluate.sampling"),
        pytest.param(lambda e: e.update(max_new_tokens=9), "evaluate.max_new_tokens", marks=pytest.mark.slow),
        pytest.param(lambda e: e.update(verifier="number"), "evaluate.verifier", marks=pytest.mark.slow),
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
        "KL is not compared across: version of the KL estimator is 1 for beta = 0.1; 2 for beta = 1. To compare them: "
        "`make exp NAME=dpo_beta_sweep FRESH=1` measures anew (at beta = 0.1)."
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
    written, refused = write_comparison([first, second], tmp_path / "out")
    page = written.read_text()
    assert refused == comparability.refusals(open_studies([first, second]))
    assert refused[0].startswith("Kept apart")
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


def _evaluated_on_pairs(definition: dict[str, Any]) -> None:
    definition["evaluate"]["pairs"] = "pairs.jsonl"


def test_what_a_measure_does_not_depend_on_keeps_nothing_apart(make_experiment: Make) -> None:
    first, second = (make_experiment(name, betas=(0.1,), **SMALL) for name in ("first", "second"))
    change_definition(second, "*/seed*", _evaluated_on_pairs)
    study = open_studies([first, second])
    assert len(comparability.groups(study)) == 1
    assert len(claims.compare_all(study, study.deciding)) == 1  # type: ignore[arg-type]
    assert [len(comparability.groups(study, f"eval/pair_{name}")) for name in ("accuracy", "margin")] == [2, 2]
    (text,) = comparability.refusals(study)
    assert text.startswith("Pair accuracy and pair margin are not compared across: evaluate.pairs is none for first")


@pytest.mark.parametrize(
    ("column", "change", "parts"),
    [
        ("eval/exact_match_greedy", lambda e: e["sampling"].update(temperature=0.5), 1),
        ("eval/exact_match_sampled", lambda e: e["sampling"].update(temperature=0.5), 2),
        ("eval/completion_tokens", lambda e: e.update(verifier="number"), 1),
        ("eval/kl_start", lambda e: e["sampling"].update(temperature=0.5), 1),
        ("eval/kl_start", lambda e: e.update(max_new_tokens=9), 2),
        ("eval/exact_match_greedy", lambda e: e.update(every=7, kl=False, numbers=5), 1),
        ("eval/exact_match_greedy", lambda e: e.update(task="reasoning_gym", gym="x", gym_config={"a": 1}), 2),
    ],
)
def test_each_measure_is_kept_apart_by_what_it_depends_on(
    make_experiment: Make, column: str, change: Any, parts: int
) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    change_definition(folder, "beta=1/seed*", lambda definition: change(definition["evaluate"]))
    assert len(comparability.groups(open_study(folder), column)) == parts


def test_generators_of_other_settings_are_other_prompts(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    for name, terms in (("beta=0.1", 2), ("beta=1", 9)):
        own = {"task": "reasoning_gym", "gym": "chain_sum", "gym_config": {"max_terms": terms}}
        change_definition(folder, f"{name}/seed*", lambda definition, own=own: definition["evaluate"].update(own))
    assert [difference.what for difference in comparability.differences(open_study(folder))] == ["evaluate.gym_config"]


def test_pairs_against_two_starts_are_not_compared(make_experiment: Make) -> None:
    folder = make_experiment(betas=(), arms=("sft", "dpo"), **SMALL)
    change_definition(folder, "dpo/seed*", lambda definition: definition["start_from"].update(experiment="sft_longer"))
    study = open_study(folder)
    assert [len(comparability.groups(study, column)) for column in ("eval/exact_match_greedy", "eval/pair_margin")] == [
        1,
        2,
    ]


def test_losses_over_another_number_of_tokens_are_not_compared(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    for path in folder.glob("*/seed*/metrics.jsonl"):
        rows = [json.loads(line) | {"eval/loss": 1.0} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        tokens = 9 if "beta=1" in str(path) else 4
        rows = [{"step": 0, "row_id": f"row{i}", "loss_sum": 1.0, "num_tokens": tokens} for i in range(3)]
        path.with_name("losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = open_study(folder)
    (difference,) = comparability.differences(study, "eval/loss")
    assert (
        difference.text == "held-out rows is 3 of 12 learned tokens for beta = 0.1; 3 of 27 learned tokens for beta = 1"
    )


def test_the_line_to_change_is_named_with_its_file(make_experiment: Make) -> None:
    folders = [make_experiment(name, betas=(0.1,), **SMALL) for name in ("first", "second", "third")]
    change_definition(folders[1], "*/seed*", lambda definition: definition["evaluate"].update(prompts=99))
    change_definition(folders[2], "*/seed*", lambda definition: definition["evaluate"]["sampling"].update(top_k=5))
    found = [difference.remedies for difference in comparability.differences(open_studies(folders))]
    held = yaml.safe_load(next(folders[0].glob("*/seed0/definition.yaml")).read_text())["evaluate"]["prompts"]
    assert ("experiments/second.yaml: evaluate.prompts: 99 -> " + str(held),) in found
    assert ("experiments/third.yaml: evaluate.sampling.top_k: 5 -> null",) in found


def test_of_one_file_the_settings_that_a_line_is_about_are_named(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0, 3.0), **SMALL)
    change_definition(folder, "beta=3/seed*", lambda definition: definition["evaluate"].update(prompts=99))
    (difference,) = comparability.differences(open_study(folder))
    (line,) = difference.remedies
    assert line.startswith("experiments/dpo_beta_sweep.yaml: evaluate.prompts: 99 -> ")
    assert line.endswith(" (at beta = 3)")


def test_a_file_that_changed_under_its_name_is_no_line_but_a_command(make_experiment: Make) -> None:
    first, second = (make_experiment(name, betas=(0.1,), **SMALL) for name in ("first", "second"))
    for folder, content in ((first, "a"), (second, "b")):
        change_definition(
            folder, "*/seed*", lambda definition: definition["evaluate"].update(task=None, path="h.jsonl")
        )
        for path in folder.glob("*/seed*/status.json"):
            identity = {"identity": {"evaluate": {"path": content * 64}}}
            path.write_text(json.dumps(json.loads(path.read_text()) | identity))
    (difference,) = comparability.differences(open_studies([first, second]))
    assert difference.remedies == ("`make exp NAME=second`: what evaluate.path names has changed since",)


def _sft_of_three_seeds(make_experiment: Make, name: str) -> Path:
    folder = make_experiment(name, betas=(), arms=(), seeds=2, **SMALL)
    change_definition(folder, "*/seed*", lambda d: d.update(start_from=None, model={"preset": "tiny"}, trainer="sft"))
    return folder


def test_what_others_begin_from_is_their_start_and_no_rival(make_experiment: Make, tmp_path: Path) -> None:
    sft = _sft_of_three_seeds(make_experiment, "my_sft")
    rest = [make_experiment(name, betas=(), seeds=2, **SMALL) for name in ("my_dpo", "my_grpo")]
    for folder in rest:
        change_definition(folder, "*/seed*", lambda d: d.update(start_from={"experiment": "my_sft", "variant": "main"}))
    study = open_studies([sft, *rest])
    assert [variant.label for variant in study.variants] == ["my_dpo", "my_grpo"]
    assert len(claims.compare_all(study, study.deciding)) == 1  # type: ignore[arg-type]
    row = results.table(study).rows[0][0]
    assert (row.text, row.lines) == ("my_sft", ("start of my_dpo and my_grpo",))
    page = write_comparison([sft, *rest], tmp_path / "out")[0].read_text()
    assert "my_sft (the start of my_dpo and my_grpo): what was measured before training is the baseline" in page


def test_a_start_that_has_a_rival_is_compared_with_it(make_experiment: Make) -> None:
    sft, other = (_sft_of_three_seeds(make_experiment, name) for name in ("my_sft", "other_sft"))
    dpo = make_experiment("my_dpo", betas=(), seeds=2, **SMALL)
    change_definition(dpo, "*/seed*", lambda d: d.update(start_from={"experiment": "my_sft", "variant": "main"}))
    study = open_studies([sft, other, dpo])
    assert [group.labels for group in comparability.groups(study)] == [["my_sft", "other_sft"], ["my_dpo"]]


def test_a_start_stays_where_nothing_that_began_from_it_finished(make_experiment: Make) -> None:
    sft = _sft_of_three_seeds(make_experiment, "my_sft")
    states = {("main", seed): "failed" for seed in (0, 1)}
    dpo = make_experiment("my_dpo", betas=(), seeds=2, states=states, **SMALL)
    change_definition(dpo, "*/seed*", lambda d: d.update(start_from={"experiment": "my_sft", "variant": "main"}))
    assert [variant.label for variant in open_studies([sft, dpo]).variants] == ["my_sft", "my_dpo"]


def test_flops_that_could_not_be_counted_are_named_and_compared_with_none(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(prompts=4, arms=("dpo", "grpo"), seeds=2)
    for path in folder.glob("grpo/seed*/status.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"uncounted_flops": "Own: it takes pictures"}))
    study = open_study(folder)
    (text,) = comparability.flops_refusals(study)
    assert text.startswith("FLOPs are not compared: there are none of grpo")
    assert text.endswith("which could not be counted (Own: it takes pictures).")
    assert study.deciding is not None
    assert "cost/flops" not in [cost.column for cost in budget.axes(study, study.deciding)]
    assert budget.unlike_costs(study) == budget.at_equal_flops(study, study.deciding) == []


def test_pair_accuracy_by_a_reward_models_scores_is_kept_apart_from_that_by_log_probabilities(
    make_experiment: Make,
) -> None:
    folder = make_experiment(betas=(0.1, 1.0), pairs=8, **SMALL)
    for path in folder.glob("beta=1/seed*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row | ({"eval/score_mean": 0.5} if "eval/pair_accuracy" in row else {}) for row in rows]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    study = open_study(folder)
    assert len(comparability.groups(study, "eval/pair_accuracy")) == 2
    [difference] = comparability.differences(study, "eval/pair_accuracy")
    assert difference.text == (
        "held-out preference is by the log-probability above the start's for beta = 0.1; by a reward model's score "
        "for beta = 1"
    )
