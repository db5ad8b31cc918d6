"""Optuna's TPE: a function of space, results and seed; what is not installed is refused (definition/test_search.py)."""

from __future__ import annotations

import math

import pytest

from tests.experiment.search.conftest import score, search, variants
from workbench.experiment.search import loop, tpe
from workbench.experiment.search.design import design
from workbench.experiment.search.settings import Dimension

optuna = pytest.importorskip("optuna")
SPACE = {
    "rate": Dimension(log=(1e-4, 1e-1)),
    "rows": Dimension.model_validate({"int": (2, 50)}),
    "loss": Dimension(choice=["sigmoid", {"hinge": 0.5}]),
}


def value(setting) -> float:
    return -abs(math.log10(setting["rate"]) + 3) - (setting["loss"] == "sigmoid")


def test_what_is_asked_depends_on_the_results_and_the_seed_alone_and_lies_in_the_space():
    told = [(setting, value(setting)) for setting in design(SPACE, "sobol", 8, 0)] + [
        (design(SPACE, "sobol", 9, 0)[8], math.nan),
        (design(SPACE, "sobol", 10, 0)[9], None),
    ]
    asked = tpe.suggest(SPACE, told, 0)
    assert asked == tpe.suggest(SPACE, told, 0)
    assert asked != tpe.suggest(SPACE, told, 1)
    assert all(SPACE[name].holds(found) for name, found in asked.items())


def test_it_gets_nearer_to_the_best_than_the_design_it_began_with():
    told = [(setting, value(setting)) for setting in design(SPACE, "sobol", 5, 0)]
    first = max(found for _, found in told)
    for _ in range(15):
        asked = tpe.suggest(SPACE, told, 0)
        told.append((asked, value(asked)))
    assert max(found for _, found in told) > first


def test_a_search_that_is_killed_asks_for_the_same_and_keeps_optunas_journal(lab, searched):
    experiment = searched(sampler="tpe", trials=7, seeds=1, confirm=None)
    assert len(experiment.runs) == 4  # what is drawn before any result
    whole, _, _ = search(experiment, lab / "never killed")
    together = []
    for most in (5, 1, 1000):
        together += search(experiment, lab / "runs", most=most)[0]
    assert together == whole
    assert len(variants(whole)) == 7
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(lab / "runs/search/optuna.jsonl"))
    )
    [study] = optuna.get_all_study_summaries(storage)
    kept = optuna.load_study(study_name=study.study_name, storage=storage)
    assert len(kept.trials) == 7
    assert kept.best_value == pytest.approx(max(score(run) for run in search(experiment, lab / "runs")[1].runs))


def test_a_space_that_gives_no_more_ends_the_search(lab, searched, monkeypatch):
    experiment = searched(sampler="tpe", trials=7, seeds=1, confirm=None)
    first = experiment.runs[0].point
    monkeypatch.setattr(tpe, "suggest", lambda *_: dict(first))
    monkeypatch.setattr(
        loop, "design", lambda space, sampler, number, seed: design(space, sampler, min(number, 4), seed)
    )
    assert len(variants(search(experiment, lab / "runs")[0])) == 4
