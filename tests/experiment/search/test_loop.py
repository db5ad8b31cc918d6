"""The order of a search: trials, then the best on fresh seeds; killed anywhere it goes on with the same."""

from __future__ import annotations

import json

import pytest

from tests.experiment.search.conftest import SEARCH, finish, score, search, variants
from workbench.errors import DefinitionError
from workbench.experiment.definition.explain import explain
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.identity import identify
from workbench.experiment.planning.plan_file import write_plan
from workbench.experiment.running.outcome import Outcome
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.search.loop import as_it_stands, refuse_shared


def test_the_best_two_by_the_mean_over_seeds_are_confirmed_on_fresh_seeds(lab, searched):
    experiment = searched()
    trained, whole, _ = search(experiment, lab / "runs")
    trials, confirmed = trained[:8], trained[8:]
    assert {key[-5:] for key in trials} == {"seed0", "seed1"}
    assert len(variants(trials)) == 4
    means = {run.variant: score(run) for run in experiment.runs}
    best = sorted(means, key=lambda name: -means[name])[:2]
    assert set(variants(confirmed)) == set(best)
    assert [key[-5:] for key in confirmed] == ["seed2", "seed3", "seed4"] * 2
    assert whole.search.chosen.complete
    assert whole.search.chosen.confirmed == tuple(best)


def test_a_second_command_trains_nothing_and_the_plan_says_which_runs_confirm(lab, searched):
    experiment = searched()
    search(experiment, lab / "runs")
    trained, whole, said = search(experiment, lab / "runs")
    assert trained == []
    assert said == ["search: 4 trials begun before are reused"]
    stands = as_it_stands(experiment, lab / "runs")
    assert [run.key for run in stands.runs] == [run.key for run in whole.runs]
    write_plan(stands, lab / "runs", [])
    plan = json.loads((lab / "runs/search/plan.json").read_text())
    assert (plan["search"]["fresh_seeds"], plan["search"]["complete"]) == ([2, 3, 4], True)
    assert sum(run["seed"] in (2, 3, 4) for run in plan["runs"]) == 6


@pytest.mark.parametrize("kills", [[1, 5, 2], [8, 3], [9, 1, 1]])
def test_killed_anywhere_it_goes_on_with_the_same_trials(lab, searched, kills):
    experiment = searched()
    whole, _, _ = search(experiment, lab / "never killed")
    together: list[str] = []
    for most in [*kills, 1000]:
        trained, _, _ = search(experiment, lab / "runs", most=most)
        together += trained
    assert together == whole


def test_a_value_that_is_better_when_it_is_lower_is_searched_downwards(lab, searched):
    def train(run):
        finish(lab / "runs", run, 0.0)
        path = lab / "runs" / run.key / "metrics.jsonl"
        path.write_text(json.dumps({"step": 0}) + "\n" + json.dumps({"step": 4, "eval/loss": 1 - score(run)}) + "\n")

    experiment = searched()
    _, whole, _ = search(experiment, lab / "runs", train)
    means = {run.variant: score(run) for run in experiment.runs}
    assert whole.search.chosen.confirmed == tuple(sorted(means, key=lambda name: -means[name])[:2])


def test_a_trial_that_lost_a_seed_is_not_confirmed_and_is_tried_again_by_the_next_command(lab, searched):
    experiment = searched()
    best = max(experiment.runs, key=score)
    fails = {best.key}
    trained, whole, _ = search(experiment, lab / "runs", lambda run: None if run.key in fails else score(run))
    assert best.variant not in whole.search.chosen.confirmed
    assert trained.count(best.key) == 1
    trained, whole, _ = search(experiment, lab / "runs")
    assert trained[0] == best.key
    assert whole.search.chosen.confirmed[0] == best.variant


def test_a_search_of_which_nothing_ends_stops_after_several_trials(lab, searched):
    experiment = searched(trials=8, budget={"flops": 1e9})
    trained, whole, _ = search(experiment, lab / "runs", lambda run: None)
    assert len(variants(trained)) == 4
    assert whole.search.chosen.confirmed == ()


def test_a_first_trial_that_fails_does_not_end_a_search(lab, searched):
    experiment = searched(trials=6, budget={"flops": 1e9})
    first = experiment.runs[0].variant
    trained, whole, _ = search(experiment, lab / "runs", lambda run: None if run.variant == first else score(run))
    assert len(variants(trained)) == 6
    assert len(whole.search.chosen.confirmed) == 2


@pytest.mark.parametrize(("code", "stopped"), [(130, True), (143, True), (137, False), (139, False), (3, False)])
def test_only_a_request_to_stop_stops_a_search_and_a_trial_that_was_killed_has_failed(code, stopped):
    assert Outcome({"a": 0, "b": code}).is_stopped is stopped


def test_the_plan_counts_a_trial_that_failed_as_ended(lab, searched):
    experiment = searched()
    best = max(experiment.runs, key=score)
    search(experiment, lab / "runs", lambda run: None if run.key == best.key else score(run))
    assert not as_it_stands(experiment, lab / "runs").search.chosen.complete
    fingerprint = identify(best, lab / "runs", "float32").fingerprint
    folder = RunFolder(lab / "runs", best.key)
    folder.model.mkdir(parents=True)
    folder.write_status(state="failed", fingerprint=fingerprint)
    stands = as_it_stands(experiment, lab / "runs")
    assert stands.search.chosen.complete
    assert best.variant not in stands.search.chosen.confirmed
    assert sum(run.seed > 1 for run in stands.runs) == 6


def test_a_new_arm_has_trials_in_the_plan_while_another_waits(lab, searched):
    search(searched(extra={"arms": {"plain": {}}}), lab / "runs", most=1)
    stands = as_it_stands(searched(extra={"arms": {"plain": {}, "wide": {}}}), lab / "runs")
    assert sum(run.arm == "wide" for run in stands.runs) == 4 * 2
    assert "settings of arm wide" in explain(stands)


def test_more_trials_and_a_changed_space_reuse_what_fits(lab, searched):
    first = search(searched(confirm=None), lab / "runs")[0]
    more, _, said = search(searched(confirm=None, trials=6), lab / "runs")
    assert len(variants(more)) == 2
    assert not set(variants(more)) & set(variants(first))
    assert said == ["search: 4 trials begun before are reused"]
    asked = [run for run in as_it_stands(searched(trials=6), lab / "runs").runs if run.seed == 0]
    outside = sum(run.hyperparameters.learning_rate < 1e-3 for run in asked)
    assert 0 < outside < 6
    space = {"learning_rate": {"log": [1e-3, 1e-1]}, "batch_rows": {"choice": [8, 16, 32]}}
    trained, whole, said = search(searched(confirm=None, trials=6, space=space), lab / "runs")
    assert f"{6 - outside} trials begun before are reused" in said[0]
    assert f"{outside} outside the space of now" in said[0]
    assert len(variants(trained)) == outside
    assert all(run.hyperparameters.learning_rate >= 1e-3 for run in whole.runs)


def test_no_trial_begins_once_the_budget_of_an_arm_is_spent(lab, searched):
    """A run spends 100 FLOPs of its own, so that two seeds of a trial spend 200."""
    trained, whole, _ = search(searched(budget={"flops": 500}), lab / "runs")
    assert len(variants(trained[:6])) == 3
    assert len(trained) == 6 + 6
    assert whole.search.chosen.complete


def test_each_arm_is_searched_apart_in_what_its_trainer_has_and_in_its_own_ranges(lab, searched):
    arms = {"plain": {}, "wide": {"hyperparameters": {"weight_decay": 0.1}}, "fixed": {}}
    space = {"learning_rate": {"log": [1e-3, 1e-2]}, "arms.wide.learning_rate": {"log": [1e-5, 1e-4]},
             "arms.wide.warmup_steps": {"int": [0, 3]}}  # fmt: skip
    experiment = searched(space=space, trials=3, extra={"arms": arms})
    rates = {run.arm: set() for run in experiment.runs}
    for run in experiment.runs:
        rates[run.arm].add(run.hyperparameters.learning_rate)
    assert all(1e-3 <= rate <= 1e-2 for rate in rates["plain"] | rates["fixed"])
    assert all(1e-5 <= rate <= 1e-4 for rate in rates["wide"])
    assert {len(found) for found in rates.values()} == {3}
    _, whole, _ = search(experiment, lab / "runs")
    assert [name.split(",")[0] for name in whole.search.chosen.confirmed] == ["plain"] * 2 + ["wide"] * 2 + [
        "fixed"
    ] * 2


def test_a_fresh_search_trains_everything_anew(lab, searched):
    experiment = searched()
    once = search(experiment, lab / "runs")[0]
    assert search(experiment, lab / "runs", fresh=True)[0] == once


def test_a_file_that_changes_while_its_search_runs_ends_it(lab, searched):
    experiment = searched()

    def train(run):
        searched(trials=9)
        return score(run)

    with pytest.raises(DefinitionError, match="changed while its search ran"):
        search(experiment, lab / "runs", train)


def test_a_file_that_it_extends_is_part_of_it(lab, define, definitions, searched):
    base = definitions["start"]
    define("base", base)
    search_alone = {"extends": "base", "question": "Which?", "sweep": {"seeds": 1, "search": SEARCH}}
    define("search", search_alone)
    experiment = load_experiment("search")

    def train(run):
        define("base", base | {"evaluate": base["evaluate"] | {"prompts": 9}})
        return score(run)

    with pytest.raises(DefinitionError, match="changed while its search ran"):
        search(experiment, lab / "runs", train)


def test_seeds_that_the_confirmation_cannot_begin_from_are_told_before_any_trial(define, definitions, searched):
    define("before", definitions["start"] | {"sweep": {"seeds": 2}})
    follows = {"start_from": {"experiment": "before", "seed": "match"}, "model": None}
    assert searched(extra=follows, confirm=None).runs
    with pytest.raises(DefinitionError, match=r"search.yaml:\d+: start_from.seed: found seed 2 to match"):
        searched(extra=follows)


def test_several_commands_do_not_share_a_search(searched):
    with pytest.raises(DefinitionError, match=r"experiments/search.yaml: sweep.search: found with SHARE=1"):
        refuse_shared(searched(), True)
