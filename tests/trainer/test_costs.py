"""Costs and budgets."""

from __future__ import annotations

import pytest
import torch

from workbench.models.flops import Work
from workbench.tracking.durations import format_duration
from workbench.trainer.records.costs import Costs
from workbench.trainer.records.progress import Progress
from workbench.trainer.settings import Budget


def test_costs_add_up_by_field():
    costs = Costs(generated_tokens=1, flops=2.0)
    costs.add(Costs(generated_tokens=2, trained_tokens=3, scored_tokens=4, flops=0.5, seconds=1.0))
    assert costs == Costs(3, 3, 4, 2.5, 1.0)
    assert set(costs.row()) == {
        "cost/generated_tokens",
        "cost/trained_tokens",
        "cost/scored_tokens",
        "cost/flops",
        "time/seconds",
    }


@pytest.mark.parametrize(
    ("budget", "spent"),
    [
        ({"flops": 100.0}, "budget: flops 100 of 100"),
        ({"flops": 101.0}, None),
        ({"tokens": 7}, "budget: tokens 7 of 7"),
        ({"seconds": 2.0, "flops": 1e9}, "budget: seconds 2.5 of 2"),
    ],
)
def test_a_budget_is_spent_when_any_of_its_limits_is_reached(budget, spent):
    assert Costs(trained_tokens=7, flops=100.0, seconds=2.5).spent(Budget(**budget)) == spent


def test_a_budget_without_a_limit_is_refused():
    with pytest.raises(ValueError, match="one of flops, tokens, seconds"):
        Budget()


def test_a_run_charges_its_real_tokens_and_their_flops(sft, make_rows):
    trainer = sft(steps=1)
    trainer.train()
    lengths = [len(prompt) + len(completion) for prompt, completion, _ in make_rows(3, seed=0)]
    assert trainer.costs.trained_tokens == sum(lengths)
    projected = sum(len(completion) for _, completion, _ in make_rows(3, seed=0))
    assert trainer.costs.flops == trainer.flops.training(
        Work.of_rows(torch.tensor(lengths), projected, trainer.policy, max(lengths))
    )


def test_inherited_costs_count_and_the_run_ends_with_a_last_evaluation(sft, collate, make_rows):
    arguments = {"val_loader": [collate("sft", make_rows(2))]}
    trainer = sft(steps=100, budget={"tokens": 150}, arguments=arguments)
    trainer.state.costs = Costs(trained_tokens=100, generated_tokens=9)
    row = trainer.train()
    assert trainer.stopped_by == f"budget: tokens {trainer.costs.trained_tokens} of 150"
    assert 0 < trainer.step < 10
    assert "eval/loss" in row
    assert row["cost/generated_tokens"] == 9


def test_reference_scoring_is_charged_for_training_and_never_for_evaluation(small_llama, collate, make_rows):
    from workbench.trainer import DPOTrainer

    batches = [collate("dpo", make_rows(3))]
    settings = DPOTrainer.settings_class(steps=2, evaluate_every=1, device="cpu", precision="float32")
    trainer = DPOTrainer(small_llama(), None, batches, settings=settings, val_loader=batches)
    trainer.train()
    tokens = sum(len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in make_rows(3))
    assert trainer.costs.scored_tokens == trainer.costs.trained_tokens == 2 * tokens, "a prompt is computed once"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (125, "2 min 5 s"), (11520, "3 h 12 min"), (-1, "0 s")]
)
def test_durations_are_short(seconds, text):
    assert format_duration(seconds) == text


def test_progress_tells_evaluations_and_the_last_step_alone(capsys):
    progress = Progress(5, enabled=True, every_seconds=1e9)
    for step in range(6):
        progress.report(step, {"loss": 0.5, **({"eval/loss": 2.0} if step == 2 else {})}, "more")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 2/5", "step 5/5"]
    assert "loss 0.5000" in lines[0]
    assert "eval/loss 2" in lines[0]
    assert "left" in lines[0]
    assert lines[0].endswith("more")


def test_a_silent_process_prints_nothing(capsys):
    progress = Progress(1, enabled=False)
    progress.announce("x", {})
    progress.report(1, {"eval/loss": 1.0})
    assert capsys.readouterr().err == ""
