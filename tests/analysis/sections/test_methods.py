"""Methods side by side: what each said of itself when it ran, and figures that are the runs' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import yaml

from analysis.report.plots import Canvas
from analysis.report.sections import learning, methods
from analysis.study import open_study

Make = Callable[..., Path]


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


def test_what_a_method_said_when_it_ran_is_shown(make_budget_experiment: Make) -> None:
    facts = _facts(make_budget_experiment(steps=20, every=4, prompts=6))
    assert facts["loss"][1].startswith("sigmoid: −log σ(β h), h = log π(chosen)/π_ref(chosen)")
    assert facts["loss"][2].startswith("dapo: −min(r A, clip(r, 1 − clip_low, 1 + clip_high) A)")
    assert facts["reference model"] == ["none", "the start, frozen; its log-probabilities are computed once",
                                        "none (beta is 0)", "the start, frozen"]  # fmt: skip


def test_a_run_that_recorded_no_method_says_so_where_its_formula_would_stand(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(steps=20, every=4, prompts=6)
    for path in folder.glob("*/seed*/provenance.json"):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "method"}))
    facts = _facts(folder)
    assert facts["loss"] == ["not recorded when this was run"] * 4
    assert facts["trained tokens"] == ["30k", "20k", "6,000", "4,800"]
    assert facts["samples as it trains"][2] == "8 prompts × 4 completions a rollout, 60% of the time"
    assert "in general, when" not in facts


def test_a_method_s_own_measures_are_drawn_with_its_words(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(arms=("dpo",), steps=20, every=4, prompts=6)
    own = {"metric": "odds", "label": "log odds ratio", "unit": "nats", "better": "higher"}
    for path in folder.glob("*/seed*/provenance.json"):
        told = json.loads(path.read_text())
        path.write_text(json.dumps(told | {"method": told["method"] | {"measures": [own]}}))
        rows = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        lines = (json.dumps(row | {"odds": row["step"] / 10}) for row in rows)
        (path.parent / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    study = open_study(folder)
    section = learning.section(study, Canvas(study))
    assert section is not None
    assert "log_odds_ratio_by_step" in [panel.name for panel in section.blocks[0].panels]


def test_reward_models_are_named_by_their_runs_and_other_rewards_by_what_they_are(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(arms=("grpo",), steps=20, every=4, prompts=6)
    own = [{"model_from": "scorer"}, {"reward": "sort"}]
    mix = [{"path": "a.jsonl", "rewards": own}, {"task": "sort"}]
    short = {"length": {"target": 4}}
    known = [{"model": "5e1", "version": 1}, {"reward": "sort", "version": 3}, {"model": "9ab"}, short]
    for path in folder.glob("*/seed*/definition.yaml"):
        definition = yaml.safe_load(path.read_text())
        common = definition["hyperparameters"] | {"rewards": [{"model": "judge/"}, short]}
        told = {"data": {"mix": mix}, "hyperparameters": common, "judges": ["scorer/main/seed0"]}
        path.write_text(yaml.safe_dump(definition | told))
        status = json.loads((path.parent / "status.json").read_text())
        identity = {"hyperparameters": {"rewards": known}}
        (path.parent / "status.json").write_text(json.dumps(status | {"identity": identity}))
    assert _facts(folder)["reward"] == [
        "reward model scorer/main/seed0, version 1, sort, version 3, reward model judge/ and length"
    ]
