"""Online DPO's own laws: the best against the worst, no pair of ties, more prompts until there is a pair."""

from __future__ import annotations

import math

import pytest

from workbench.errors import DivergenceError
from workbench.trainer.online_dpo_trainer import best_and_worst
from workbench.trainer.rollouts import rollout_made_elsewhere


def test_a_pair_is_the_best_and_the_worst_the_first_of_equals_and_ties_give_none(torch):
    rewards = [0.5, 1.0, 1.0, 0.0, 0.7, 0.7, 0.2, 0.0]
    groups = [0, 0, 0, 0, 1, 1, 2, 0]
    batch = {
        "prompts": torch.ones(8, 1, dtype=torch.long),
        "prompt_mask": torch.ones(8, 1, dtype=torch.bool),
        "responses": torch.ones(8, 2, dtype=torch.long),
        "rewards": torch.tensor(rewards),
        "group_ids": torch.tensor(groups),
    }
    assert best_and_worst(rollout_made_elsewhere(batch, 1, 0)) == ([1], [3])


def test_a_step_is_dpo_on_the_best_against_the_worst_sample_of_each_prompt(torch, rollout_trainer):
    trainer = rollout_trainer("online_dpo", steps=1)
    trainer._take_batch()
    (batch,) = trainer.pending_batches
    completions = trainer._rollout_completions
    by_prompt = [completions[start : start + 4] for start in range(0, 12, 4)]
    for row, group in enumerate(by_prompt):
        chosen = batch["chosen_input_ids"][row][batch["chosen_attention_mask"][row]].tolist()
        best = max(group, key=lambda entry: entry["reward"])
        worst = min(group, key=lambda entry: entry["reward"])
        shown = chosen[:-1] if best["ended"] else chosen
        assert trainer.tokenizer.decode_batch([shown]) == [best["completion"]]
        assert (best["advantage"], worst["advantage"]) == (1.0, -1.0)
        assert [entry["advantage"] for entry in group].count(0.0) == 2
    row = trainer.train()
    assert row["loss"] == pytest.approx(math.log(2), rel=1e-5)  # it starts from its reference
    assert row["pairs"] == 3


def test_prompts_whose_completions_earn_the_same_give_no_pair(rollout_trainer):
    trainer = rollout_trainer(
        "online_dpo",
        steps=1,
        reward_fn=lambda completions, prompts: [
            float(len(text)) if prompt == trainer.train_loader[0]["texts"][1] else 1.0
            for text, prompt in zip(completions, prompts, strict=True)
        ],
    )
    assert trainer.train()["pairs"] == 1
    assert trainer.batches_taken == 1


def test_without_a_pair_more_prompts_are_taken(rollout_trainer):
    trainer = rollout_trainer(
        "online_dpo",
        steps=1,
        reward_fn=lambda completions, prompts: [
            float(len(text)) if prompt in trainer.train_loader[2]["texts"] else 1.0
            for text, prompt in zip(completions, prompts, strict=True)
        ],
    )
    row = trainer.train()
    assert trainer.batches_taken == 3
    assert 1 <= row["pairs"] <= 3


def test_without_any_pair_the_run_stops_after_its_patience(rollout_trainer):
    trainer = rollout_trainer(
        "online_dpo", reward_fn=lambda completions: [1.0] * len(completions), dead_signal_patience=3
    )
    with pytest.raises(DivergenceError, match=r"step 1: dead signal: 3 batches of prompts gave 0 pairs") as stopped:
        trainer.train()
    assert stopped.value.exit_code == 6
    assert trainer.step == 0


def test_passes_and_minibatches_meet_each_pair_once_a_pass(torch, rollout_trainer):
    trainer = rollout_trainer("online_dpo", passes=2, minibatches=3, steps=6)
    trainer._take_batch()
    updates = trainer.pending_batches
    assert len(updates) == 6
    for start in (0, 3):
        met = torch.cat([batch["ref_chosen_logprobs"].sum(1) for batch in updates[start : start + 3]])
        whole = torch.cat([batch["ref_chosen_logprobs"].sum(1) for batch in updates[:3]])
        assert met.sort().values.tolist() == whole.sort().values.tolist()
    trainer.train()
    assert trainer.batches_taken == 1


def test_held_out_prompts_without_a_pair_give_no_loss(rollout_trainer, prompt_batch):
    trainer = rollout_trainer(
        "online_dpo",
        reward_fn=lambda completions, prompts: [
            float(len(text)) if prompt in trainer.train_loader[0]["texts"] else 1.0
            for text, prompt in zip(completions, prompts, strict=True)
        ],
        arguments={"val_loader": [prompt_batch(2, 9)]},
    )
    assert math.isnan(trainer.evaluate()["eval/loss"])
