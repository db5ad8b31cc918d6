"""Online DPO's own laws: the best against the worst, no pair of ties, nothing learned without a pair."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.trainers import Watched, without_clocks
from workbench.errors import DataError, DivergenceError
from workbench.rewards.reward import Reward, RewardSet
from workbench.trainer.online.rollout import rollout_made_elsewhere
from workbench.trainer.online_dpo_settings import OnlineDPOSettings
from workbench.trainer.online_dpo_trainer import best_and_worst
from workbench.trainer.pairs import completion_logprobs


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
    made = trainer.updates_of()
    (batch,), completions = made.batches, made.completions
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


def test_a_rollout_without_a_pair_has_no_gradient_and_is_warned_of(torch, rollout_trainer):
    trainer = rollout_trainer(
        "online_dpo",
        steps=2,
        reward_fn=lambda completions: [1.0] * len(completions),
    )
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    row = trainer.train()
    assert (row["loss"], row["grad_norm"], row["pairs"]) == (0.0, 0.0, 0.0)
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.parameters, strict=True))
    assert trainer.warnings[0].startswith("step 1: dead signal")


def test_the_row_that_stands_for_no_pair_moves_no_number(torch, rollout_trainer):
    class Standing(Watched):
        def _make_update_batches(self, batch):
            made = super()._make_update_batches(batch)
            [update] = made.batches
            assert update["pair_weights"].tolist() == [1.0] * len(update["pair_weights"])
            update = {k: torch.cat((v, v[:1] * (k != "pair_weights"))) for k, v in update.items()}
            return replace(made, batches=[update])

    rows, gradients = [], []
    for mixin in (Watched, Standing):
        trainer = rollout_trainer("online_dpo", mixin=mixin, steps=1, nll_weight=0.5, max_grad_norm=None)
        trainer.optimizer.register_step_pre_hook(
            lambda *_, t=trainer: gradients.append(torch.cat([p.grad.flatten() for p in t.parameters]))
        )
        trainer.train()
        rows += map(without_clocks, trainer.rows)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)
    assert rows[0] == pytest.approx(rows[1], rel=1e-5, abs=1e-6)


def test_without_any_pair_the_run_stops_after_its_patience(rollout_trainer):
    trainer = rollout_trainer(
        "online_dpo", steps=5, reward_fn=lambda completions: [1.0] * len(completions), dead_signal_patience=3
    )
    with pytest.raises(DivergenceError, match=r"step 3: dead signal: .* for 3 rollouts") as stopped:
        trainer.train()
    assert stopped.value.exit_code == 6


def test_solved_prompts_do_not_stop_the_run(rollout_trainer):
    solved = RewardSet([Reward("always", lambda samples: [1.0] * len(samples), maximum=1.0)])
    trainer = rollout_trainer("online_dpo", steps=3, reward_fn=solved, dead_signal_patience=1)
    assert trainer.train()["step"] == 3
    assert [warning for warning in trainer.warnings if "solved" in warning] == trainer.warnings[:1]


def test_completions_are_scored_at_the_sampling_temperature(torch, rollout_trainer):
    trainer = rollout_trainer("online_dpo", steps=1, temperature=0.5)
    [batch] = trainer.updates_of().batches
    with torch.no_grad():
        expected = completion_logprobs(trainer.policy, batch, 0.5)[1]
    torch.testing.assert_close(batch["ref_chosen_logprobs"], expected)
    assert not torch.allclose(expected, completion_logprobs(trainer.policy, batch)[1])


def test_passes_and_minibatches_meet_each_pair_once_a_pass(torch, rollout_trainer):
    trainer = rollout_trainer("online_dpo", passes=2, minibatches=3, steps=6)
    updates = trainer.updates_of().batches
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


def test_under_overlong_mask_a_cut_completion_is_no_side_of_a_pair(torch):
    batch = {
        "prompts": torch.ones(3, 1, dtype=torch.long),
        "prompt_mask": torch.ones(3, 1, dtype=torch.bool),
        "responses": torch.ones(3, 2, dtype=torch.long),
        "rewards": torch.tensor([1.0, 0.5, 0.0]),
        "ended": torch.tensor([False, True, True]),
    }
    rollout = rollout_made_elsewhere(batch, 1, 0)
    assert best_and_worst(rollout) == ([0], [2])
    assert best_and_worst(rollout, only_ended=True) == ([1], [2])


@pytest.mark.parametrize("loss", ["aot", {"sigmoid": 1.0, "bco_pair": 0.5}])
def test_a_loss_over_the_pairs_of_a_step_is_refused_by_name(loss):
    with pytest.raises(ValueError, match=r"(aot|bco_pair) compares all pairs of a step .* allowed with trainer: dpo"):
        OnlineDPOSettings(loss=loss)


def test_a_reference_that_moves_takes_no_log_probabilities_of_another(torch, make_trainer, collate, make_rows):
    batch = collate("online_dpo", make_rows(4))
    batch |= {"ref_logprobs": torch.zeros(batch["responses"].shape)}
    trainer = make_trainer("online_dpo-scored", batches=[batch], sync_reference_every=2)
    with pytest.raises(DataError, match="sync_reference_every moves the reference; leave ref_logprobs out"):
        trainer.train()
