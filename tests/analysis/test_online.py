"""Online runs in the report: rollouts are never held out, reward never decides, costs are compared one at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import stats
from analysis.inference import budget, checkpoints
from analysis.inference.over_optimisation import by_reward
from analysis.load import load_runs
from analysis.measures import BY_COLUMN
from analysis.report.pages import answer_of, notices, write_report
from analysis.report.sections import costs, equal_cost, rollouts
from analysis.report.sections.samples import side_by_side
from analysis.study import open_study

Make = Callable[..., Path]
SMALL: dict[str, Any] = {"steps": 20, "every": 5, "prompts": 8}
SAMPLED = BY_COLUMN["eval/exact_match_sampled"]


def _rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))


def _each(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"*/seed*/{name}"))


def test_rollouts_reach_no_table_and_no_sample_of_held_out_prompts(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(**SMALL, arms=("grpo",), seeds=1)
    (path,) = _each(folder, "completions.jsonl")
    # The most that could leak: rollouts that look held out in every other respect, at the steps that are read.
    worst = {"split": "train", "prompt_id": "0", "prompt": "x", "completion": "never held out", "exact_match": 1.0}
    path.write_text(
        "".join(json.dumps({**worst, "step": s, "sample_index": 0}) + "\n" for s in (0, 20)) + path.read_text()
    )
    study = open_study(folder)
    assert set(study.loaded.completions["split"]) == {"greedy", "sampled"}
    assert set(load_runs(folder.parent).completions["split"]) == {"greedy", "sampled"}
    assert set(checkpoints.final_items(study, study.loaded.completions)["grpo"]["split"]) == {"greedy", "sampled"}
    page = write_report(folder)
    for written in (page, page.with_name("report.md")):
        assert "never held out" not in written.read_text()


def test_a_run_with_rollouts_alone_has_no_samples_to_show(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(**SMALL, arms=("grpo",), seeds=1)
    _rewrite(_each(folder, "completions.jsonl")[0], lambda row: row if row["split"] == "train" else None)
    assert side_by_side(open_study(folder)) is None
    write_report(folder)


def test_a_held_out_measure_decides_and_reward_never_does(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(**SMALL)
    answer = answer_of(open_study(folder))
    assert answer.result.startswith("Held-out sampled exact match is best at grpo")
    assert "Welch" in answer.certainty
    for path in _each(folder, "metrics.jsonl"):
        _rewrite(path, lambda row: {k: v for k, v in row.items() if not k.startswith("eval/")})
    answer = answer_of(open_study(folder))
    assert answer.result == "There is no answer yet: no finished run has a held-out measure."
    assert [ground.split(":")[0] for ground in answer.grounds] == ["grpo", "ppo"]
    assert all("ranks nothing" in ground for ground in answer.grounds)


def test_reward_up_and_held_out_down_is_named_where_the_seeds_show_it(make_budget_experiment: Make) -> None:
    study = open_study(make_budget_experiment(**SMALL))
    (text,) = by_reward(study)
    assert text.startswith("Over-optimised: at ppo the reward in training rose by")
    assert "in the second half while sampled exact match got worse by" in text
    assert text in answer_of(study).flags


def test_the_change_of_the_reward_stands_beside_that_of_what_was_wanted(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(**SMALL)
    write_report(folder)
    rows = (folder / "report/optimised.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [
        [name, since] for name in ("grpo", "ppo") for since in ("since the start", "in the second half")
    ]
    cells = dict(zip(rows[0].split(","), rows[4].split(","), strict=True))
    assert float(cells["reward_mean"]) > 0 > float(cells["held_out_mean"])
    assert "Reward against what was wanted" in (folder / "report/report.md").read_text()


def test_one_seed_speaks_of_its_checkpoint_only(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(steps=20, every=5, prompts=200, arms=("grpo", "ppo"), seeds=1)
    assert by_reward(open_study(folder)) == []
    (path,) = (folder / "ppo").glob("*/completions.jsonl")
    last = max(json.loads(line)["step"] for line in path.read_text().splitlines())
    _rewrite(path, lambda row: row | ({"exact_match": float(row["step"] != last)} if row["split"] == "greedy" else {}))
    (text,) = by_reward(open_study(folder))
    assert text.startswith("Over-optimised, in this checkpoint of ppo")
    assert "of 200 prompts 0 gained" in text
    (path,) = (folder / "ppo").glob("*/metrics.jsonl")
    # Every other rollout earns more: three of the last five and two of the first.
    _rewrite(path, lambda row: row | ({"reward": 0.51 - 0.01 * (row["step"] % 2)} if row["step"] else {}))
    assert by_reward(open_study(folder)) == [], "a reward that only wavers has not risen"


def test_phases_are_summed_over_steps_and_the_rest_is_other(make_budget_experiment: Make) -> None:
    table = rollouts.phases(open_study(make_budget_experiment(**SMALL, arms=("continued_sft", "grpo"))))
    assert table is not None
    row = table.plain[-1]
    assert row["variant"] == "grpo"
    # 20 steps of 0.2 s: 60 % sampling, 5 % rewards, 10 % reference, 20 % updates.
    expected = {"sample": 2.4, "reward": 0.2, "reference": 0.4, "update": 0.8, "other": 0.2, "training": 4.0}
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert [cell.lines for cell in table.rows[-1][1:6]] == [("60%",), ("5%",), ("10%",), ("20%",), ("5%",)]


def test_without_rollouts_there_are_no_phases(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(**SMALL, arms=("continued_sft", "dpo"), seeds=1)
    (path,) = (folder / "dpo").glob("*/metrics.jsonl")
    _rewrite(path, lambda row: row | {"time/update_seconds": 0.01})
    assert rollouts.phases(open_study(folder)) is None


def test_a_rollout_that_serves_several_steps_counts_where_it_is_told_of(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(steps=60, every=5, prompts=8)
    before = open_study(folder).finals.set_index("run")["reward"]
    told = ("reward", "completions", "frac", "entropy")
    for path in _each(folder, "metrics.jsonl"):
        # As with 10 updates a rollout, the last rollout at step 41: outside the last tenth of 45 or 50 steps.
        _rewrite(path, lambda row: {k: v for k, v in row.items() if row["step"] % 10 == 1 or not k.startswith(told)})
    study = open_study(folder)
    metrics = study.loaded.metrics
    run = metrics[metrics["run"] == "methods/ppo/seed0"]
    assert study.finals.set_index("run")["reward"]["methods/ppo/seed0"] == run["reward"].dropna().iloc[-1]
    assert study.finals["reward"].isna().tolist() == before.isna().tolist()
    (text,) = by_reward(study)
    assert "at ppo the reward in training rose" in text


def test_costs_that_the_settings_do_not_share_are_named(make_budget_experiment: Make) -> None:
    study = open_study(make_budget_experiment(arms=("continued_sft", "dpo"), steps=40))
    # Fine-tuning ends at 8e10 FLOPs, and collecting pairs alone took 1.1e11.
    assert budget.uncovered(study, SAMPLED) == [
        "No range that every setting covers, and so no comparison in numbers: FLOPs"
    ]
    table = equal_cost.table(study, SAMPLED)
    assert table is not None
    assert "cost/flops" not in {row["axis"] for row in table.plain}


def test_rates_are_amounts_over_training_seconds(make_budget_experiment: Make) -> None:
    table = rollouts.throughput(open_study(make_budget_experiment(**SMALL, arms=("continued_sft", "grpo"))))
    assert table is not None
    sft, grpo = table.plain
    # A step: 600 tokens generated, 1200 trained, 8 prompts of 4 completions, 0.2 s of which 0.12 s sampling.
    assert grpo["generated_tokens_per_second"] == pytest.approx(3000)
    assert grpo["generated_tokens_per_sampling_second"] == pytest.approx(5000)
    assert grpo["trained_tokens_per_second"] == pytest.approx(6000)
    assert grpo["completions_per_second"] == pytest.approx(160)
    assert math.isnan(sft["completions_per_second"])
    assert sft["trained_tokens_per_second"] == pytest.approx(30000)


def test_curves_over_cost_charge_what_was_inherited(make_budget_experiment: Make) -> None:
    study = open_study(make_budget_experiment(arms=("dpo", "grpo"), steps=60))
    found = budget.curves(study, SAMPLED, BY_COLUMN["cost/flops"])
    starts = {curve.variant.name: curve.costs[0] for curve in found}
    assert starts == {"dpo": 1.1e11, "grpo": 0.0}
    assert budget.common_range(found) == (1.1e11, min(curve.costs[-1] for curve in found))


def test_an_equal_cost_is_one_that_every_setting_reached(make_budget_experiment: Make) -> None:
    table = equal_cost.table(open_study(make_budget_experiment()), SAMPLED)
    assert table is not None
    rows = table.plain
    spent = {"continued_sft": 60 * 1200, "dpo": 30 * 1200, "grpo": 50 * 1200, "ppo": 45 * 1200}
    trained = [row for row in rows if row["axis"] == "cost/trained_tokens"]
    assert {row["to"] for row in trained} == {min(spent.values())}
    assert {row["variant"] for row in rows if row["axis"] == "cost/generated_tokens"} == {"grpo", "ppo"}
    ppo = next(row for row in trained if row["variant"] == "ppo")
    assert ppo["reached"] == 3, "reached on the way, though it fell below again"


def test_final_values_at_unlike_cost_are_said_to_be_so(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment()
    (text,) = budget.unlike_costs(open_study(folder))
    # 60 steps of 2e9; 45 of 4.5e9, the first whose sum is over the budget.
    assert "from 1.20×10¹¹ FLOPs at continued_sft to 2.02×10¹¹ at ppo" in text
    assert text in answer_of(open_study(folder)).grounds
    again = make_budget_experiment(arms=("dpo", "grpo", "ppo"))
    assert budget.unlike_costs(open_study(again)) == [], "each spent its budget, collecting included"


def test_a_budget_left_unspent_is_flagged_with_its_share(make_budget_experiment: Make) -> None:
    (flag,) = budget.flags(open_study(make_budget_experiment()))
    assert flag.startswith("Not all spent their budget: continued_sft (60%) ended")


def test_seconds_of_unlike_machines_are_not_compared(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(**SMALL, arms=("dpo", "grpo"), seeds=2)
    study = open_study(folder)
    assert "time/seconds" in [cost.column for cost in budget.axes(study, SAMPLED)]
    path = folder / "grpo" / "seed0" / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": 2}))
    study = open_study(folder)
    assert "time/seconds" not in [cost.column for cost in budget.axes(study, SAMPLED)]
    assert "Not compared by seconds" in write_report(folder).read_text()


def test_one_trainer_without_budget_or_rollouts_is_not_compared_by_cost(make_experiment: Make) -> None:
    study = open_study(make_experiment(betas=(0.1, 1.0), prompts=4, steps=6, every=3))
    assert not budget.compares_costs(study)
    assert equal_cost.table(study, SAMPLED) is None


def test_a_warning_is_said_once_whatever_its_numbers(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(**SMALL, arms=("grpo", "ppo"))
    path = folder / "ppo" / "seed2" / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"warnings": ["step 3: <b>dead</b>", 7], "notes": None}))
    found = notices.warnings(open_study(folder))
    assert [text.split(": ", 1)[1] for text in found] == [
        "step 10: 0.90 of the groups earn all alike; use harder prompts", "step 3: <b>dead</b>", "7",
    ]  # fmt: skip
    assert found[0].startswith("Warned by 5 of 6 runs (grpo seed 0, grpo seed 1, grpo seed 2, ppo seed 0 and 1 more)")
    page = write_report(folder).read_text()
    assert '<p class="flag">Warned by 1 of 6 runs (ppo seed 2): step 3: &lt;b&gt;dead&lt;/b&gt;</p>' in page
    assert "sampled exact match over FLOPs" in page
    assert page.count("training data: 3 prompts were too long") == 1, "a note of every run is one note"


def test_runs_that_ended_in_one_kind_of_harm_are_one_flag_first_of_all_and_no_warning_beside_it(
    make_experiment: Make,
) -> None:
    folder = make_experiment(betas=(0.1, 1.0), prompts=4, steps=6, every=3)
    for seed in (0, 1):
        path = folder / "beta=0.1" / f"seed{seed}" / "status.json"
        harm = f"held-out loss is {seed + 9}.5, and was 1 at step 0"
        said = {
            "harms": [harm],
            "warnings": [f"step 3: held-out loss is {seed + 5}, and was 1 at step 0", "step 3: other"],
        }
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"} | said))
    study = open_study(folder)
    flag = answer_of(study).flags[0]
    assert flag.startswith(
        "2 of 6 runs ended badly (beta = 0.1 seed 0 and beta = 0.1 seed 1): held-out loss is 9.5, and was 1"
    ), flag
    assert not [text for text in notices.warnings(study) if "held-out loss" in text]
    assert [text for text in notices.warnings(study) if text.endswith("step 3: other")]


def test_signal_and_reward_are_found_under_either_name(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(**SMALL, arms=("ppo",), seeds=1)
    (path,) = _each(folder, "metrics.jsonl")
    _rewrite(path, lambda row: {"objective/scores" if k == "reward" else k: v for k, v in row.items()})
    metrics = open_study(folder).loaded.metrics
    assert metrics["reward"].equals(metrics["objective/scores"])
    last = metrics.iloc[-1]
    assert last["groups_with_signal"] == pytest.approx(1 - last["frac_reward_zero_std"]) == pytest.approx(0.8)


def test_a_definition_without_hyperparameters_counts_no_completions(make_budget_experiment: Make) -> None:
    folder = make_budget_experiment(**SMALL, arms=("grpo",), seeds=1)
    (path,) = _each(folder, "definition.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"hyperparameters": None}))
    table = rollouts.throughput(open_study(folder))
    assert table is not None
    assert math.isnan(table.plain[0]["completions_per_second"])
    assert costs.repeats(open_study(folder)) == ""


def test_the_mean_over_a_range_is_the_area_over_its_width() -> None:
    # Between 1 and 3 the line goes 1, 2, 2: areas 1.5 and 2 over a width of 2.
    assert stats.mean_over_range([0, 2, 4], [0, 2, 2], 1, 3) == 1.75
    assert math.isnan(stats.mean_over_range([0, 2, 4], [0, 2, 2], 1, 5)), "nothing is extrapolated"
    assert math.isnan(stats.mean_over_range([0, 2], [0, 2], 1, 1))
    assert stats.value_at([0, 2], [0, 1], 1) == 0.5
    assert math.isnan(stats.value_at([0, 2], [0, 1], 3))


def test_a_threshold_counts_once_it_is_held() -> None:
    assert stats.first_held([0, 1, 2, 3, 4], [0, 5, 0, 5, 5], 5) == 3
    assert math.isnan(stats.first_held([0, 1], [0, 5], 5)), "reached at the last evaluation alone"
