"""Method cards: every trainer has one, formulas for every loss, and figures that are the runs' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from analysis.methods import BY_DEFAULT, CARDS
from analysis.plots import Canvas
from analysis.sections import methods
from analysis.study import open_study
from workbench.trainer.registry import get_settings_class, trainer_names

Make = Callable[..., Path]


def test_every_trainer_has_a_card() -> None:
    assert set(CARDS) == set(trainer_names())


@pytest.mark.parametrize("name", sorted(CARDS))
def test_every_loss_that_a_trainer_knows_has_its_formula(name: str) -> None:
    fields = get_settings_class(name).model_fields
    card = CARDS[name]
    known = set(get_args(fields[card.loss_setting].annotation)) if card.loss_setting in fields else {BY_DEFAULT}
    assert set(card.losses) == known
    assert set(card.extras) <= set(fields)
    assert card.online == (get_settings_class(name).data_form == "prompts")


def _facts(folder: Path) -> dict[str, list[str]]:
    study = open_study(folder)
    table = methods.table(study, methods.methods(study))
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def test_measured_rows_are_the_runs_own(make_budget_experiment: Make) -> None:
    facts = _facts(make_budget_experiment(steps=20, every=4, prompts=6))
    study_columns = ["continued_sft", "dpo", "grpo", "ppo"]
    assert all(len(cells) == len(study_columns) for cells in facts.values())
    # 1,200 tokens a step of 0.04, 0.06, 0.2 and 0.25 s.
    assert facts["trained tokens"] == ["30k", "20k", "6,000", "4,800"]
    # 600 tokens a step, of which 0.6 of the time is sampling.
    assert facts["generated tokens"] == ["–", "–", "5,000", "4,000"]
    assert facts["peak memory"] == ["412"] * 4
    assert facts["samples as it trains"][:2] == ["no", "no"]
    assert facts["samples as it trains"][2] == "8 prompts × 4 completions a rollout, 60% of the time"


def test_what_was_won_rests_on_tests(make_budget_experiment: Make) -> None:
    facts = _facts(make_budget_experiment(steps=40, every=4, prompts=6))
    assert facts["won here"][2].startswith("better than")
    assert "ppo" in facts["won here"][2], "whose value fell by the end"
    one = make_budget_experiment(steps=40, every=4, prompts=6, seeds=1)
    assert set(_facts(one)["won here"]) == {"nothing that can be told apart"}


def test_a_sweep_gets_one_card_of_its_best_setting(make_experiment: Make) -> None:
    study = open_study(make_experiment(betas=(0.1, 1.0, 10.0), prompts=4, steps=6, every=3))
    (method,) = methods.methods(study)
    assert (method.settings, method.variant.label) == (3, "beta = 1")
    section = methods.section(study, Canvas(study))
    assert section is not None
    assert section.tables[0].columns[1][0] == "beta = 1 (best of 3)"


def test_unlike_machines_are_named(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(steps=20, every=4, prompts=6)
    path = folder / "ppo" / "seed0" / "provenance.json"
    path.write_text(path.read_text().replace("Example CPU", "Other CPU"))
    study = open_study(folder)
    section = methods.section(study, Canvas(study))
    assert section is not None
    assert "Speeds are not comparable" in section.blocks[0].text


def test_runs_that_finished_nothing_have_no_card(make_experiment: Make) -> None:
    states = {("beta=1", seed): "failed" for seed in range(3)}
    study = open_study(make_experiment(betas=(1.0,), states=states, prompts=4, steps=6, every=3))
    assert methods.section(study, Canvas(study)) is None
