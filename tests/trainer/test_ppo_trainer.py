"""PPO's own laws: where rewards sit, what is whitened, when a rollout ends, how beta moves, what is saved."""

from __future__ import annotations

import pytest

from workbench.models.llama import Llama
from workbench.tracking.reader import read_rows
from workbench.trainer.online.actor_critic import ActorCritic
from workbench.trainer.online.scoring import predicting_states, rollout_logprobs

KL = "policy/approxkl_avg"


def first_update(torch, trainer):
    """The first update of the first rollout, all of its completions in the order in which they were sampled, and
    their rewards (N,)."""
    made = trainer.updates_of()
    return made.batches[0], torch.tensor([entry["reward"] for entry in made.completions])


def logprobs_under(torch, model, batch):
    """(N, T) of a model."""
    with torch.no_grad():
        return rollout_logprobs(predicting_states(model, batch), batch, 1.0)


def test_the_reward_sits_on_the_last_real_token_and_never_on_padding(torch, rollout_trainer):
    """The critic begins at 0: with lambda 1 an advantage is the discounted reward."""
    trainer = rollout_trainer("ppo", beta=0.0, whiten_advantages=False, gamma=0.5, gae_lambda=1.0)
    rows, rewards = first_update(torch, trainer)
    mask = rows["completion_mask"]
    lengths = mask.sum(1).tolist()
    assert len(set(lengths)) > 1
    for row, length in enumerate(lengths):
        expected = [0.5 ** (length - 1 - t) * rewards[row].item() for t in range(length)]
        assert rows["advantages"][row, :length].tolist() == pytest.approx(expected, rel=1e-5)
        assert rows["returns"][row, :length].tolist() == pytest.approx(expected, rel=1e-5)
    assert rows["advantages"][~mask].abs().sum() == 0.0
    assert rows["returns"][~mask].abs().sum() == 0.0


def test_the_kl_to_the_reference_is_taken_from_the_reward_of_each_token(torch, rollout_trainer, small_llama):
    arguments = {"ref_model": small_llama(seed=1)}
    trainer = rollout_trainer("ppo", beta=0.3, whiten_advantages=False, gae_lambda=0.0, arguments=arguments)
    made = trainer.updates_of()
    rows, rewards = first_update(torch, trainer)
    own, reference = (logprobs_under(torch, model, rows) for model in (small_llama(), small_llama(seed=1)))
    expected = -0.3 * (own - reference)
    expected[torch.arange(12), rows["completion_mask"].sum(1) - 1] += rewards
    torch.testing.assert_close(rows["advantages"], expected, rtol=1e-4, atol=1e-4)
    row = rollout_trainer("ppo", beta=0.3, steps=1, arguments={"ref_model": small_llama(seed=1)}).train()
    kl = (own - reference).sum(1).mean().item()
    assert row["objective/kl"] == pytest.approx(kl, rel=1e-4)
    assert row["objective/scores"] == row["reward"] == pytest.approx(rewards.mean().item())
    assert row["objective/non_score_reward"] == pytest.approx(-0.3 * kl, rel=1e-4)
    assert row["objective/rlhf_reward"] == pytest.approx(row["reward"] - 0.3 * kl, rel=1e-4)
    assert row["val/num_eos_tokens"] == sum(entry["ended"] for entry in made.completions)


def test_advantages_are_whitened_over_the_whole_step_and_returns_are_raw(torch, rollout_trainer):
    trainer = rollout_trainer("ppo", beta=0.0, minibatches=3, passes=1, gae_lambda=1.0)
    updates = trainer.updates_of().batches
    advantages = torch.cat([batch["advantages"][batch["completion_mask"]] for batch in updates]).double()
    assert advantages.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert advantages.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert all(abs(b["advantages"][b["completion_mask"]].mean().item()) > 1e-2 for b in updates)
    returns = torch.cat([batch["returns"][batch["completion_mask"]] for batch in updates])
    assert 0.0 <= returns.min() < returns.max() <= 1.0


def test_cut_completions_under_overlong_mask_do_not_enter_the_whitening(torch, rollout_trainer):
    trainer = rollout_trainer("ppo", beta=0.0, passes=1, overlong="mask")
    (batch,) = trainer.updates_of().batches
    advantages = batch["advantages"][batch["completion_mask"]].double()
    assert 0 < len(batch["completion_ids"]) < 12
    assert advantages.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert advantages.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("critic", ["head", "model"])
def test_the_critic_learns_the_return_and_the_policy_alone_is_evaluated(critic, torch, rollout_trainer, small_llama):
    seen = []
    trainer = rollout_trainer(
        "ppo",
        critic=critic,
        beta=0.0,
        steps=24,
        learning_rate=3e-3,
        value_clip=10.0,
        arguments={"evaluators": [lambda model, step: seen.append(model) or {"eval/x": 0.0}]},
    )
    trainer.train()
    losses = [row["loss/value_avg"] for row in trainer.rows]
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert all(model is trainer.policy for model in seen)
    assert isinstance(trainer.policy, Llama)
    assert isinstance(trainer.unwrapped_model, ActorCritic)
    assert (trainer.unwrapped_model.trunk is None) == (critic == "head")
    assert trainer.policy.state_dict().keys() == small_llama().state_dict().keys()


def test_a_critic_of_its_own_leaves_the_policys_trunk_to_the_policy(torch, rollout_trainer):
    """Without a policy gradient the value loss moves a shared trunk, and none of the policy where it has its own."""

    class ValuesOnly:
        def _compute_loss(self, outputs, batch):
            result = super()._compute_loss(outputs, batch)
            term = result.terms["policy_avg"]
            result.terms["policy_avg"] = type(term)(term.loss_sum * 0.0, term.num_units)
            return result

    for critic, moves in (("head", True), ("model", False)):
        settings = {"critic": critic, "beta": 0.0, "steps": 4, "passes": 1, "weight_decay": 0.0}
        trainer = rollout_trainer("ppo", mixin=ValuesOnly, **settings)
        before = [p.detach().clone() for p in trainer.policy.parameters()]
        trainer.train()
        moved = any(not torch.equal(a, b) for a, b in zip(before, trainer.policy.parameters(), strict=True))
        assert moved is moves


def test_values_are_clipped_to_their_old_ones(torch, rollout_trainer):
    plain = rollout_trainer("ppo", steps=4, beta=0.0, learning_rate=0.02, value_clip=10.0).train()
    held = rollout_trainer("ppo", steps=4, beta=0.0, learning_rate=0.02, value_clip=1e-3).train()
    assert plain["val/clipfrac_avg"] == 0.0
    assert held["val/clipfrac_avg"] > 0.1
    assert held["loss/value_avg"] > plain["loss/value_avg"]


def test_kl_stop_drops_the_rest_of_a_rollouts_passes(rollout_trainer):
    def run(**settings):
        trainer = rollout_trainer("ppo", passes=4, steps=8, learning_rate=3e-3, beta=0.0, **settings)
        trainer.train()
        return trainer.batches_taken, [row[KL] for row in trainer.rows]

    taken, divergences = run()
    assert taken == 2
    assert divergences[0] == pytest.approx(0.0, abs=1e-9)  # nothing has moved yet
    limit = (divergences[1] + divergences[2]) / 2
    assert divergences[1] < limit < divergences[2]
    taken, stopped = run(kl_stop=limit)
    assert taken > 2
    assert stopped[:3] == divergences[:3]
    assert stopped[3] == pytest.approx(0.0, abs=1e-9)  # of the next rollout


def test_beta_moves_once_a_rollout_and_not_by_an_evaluation(rollout_trainer, small_llama, prompt_batch, tmp_path):
    arguments = {"ref_model": small_llama(seed=1), "val_loader": [prompt_batch(2, 9)], "output_dir": tmp_path}
    trainer = rollout_trainer(
        "ppo", beta=0.1, kl_target=1e-3, kl_horizon=100.0, passes=2, steps=6, evaluate_every=1, arguments=arguments
    )
    trainer.train()
    rows = read_rows(tmp_path / "metrics.jsonl")[1:]
    grown = 1 + 0.2 * 12 / 100  # the error counts up to 0.2, over 12 completions
    assert [row.get("objective/kl_coefficient") for row in rows] == [
        pytest.approx(0.1), None, pytest.approx(0.1 * grown), None, pytest.approx(0.1 * grown**2), None
    ]  # fmt: skip
    assert trainer.updates.state["beta"] == pytest.approx(0.1 * grown**3)


def test_held_out_rollouts_leave_no_trace_in_the_step_under_way(rollout_trainer, prompt_batch):
    arguments = {"val_loader": [prompt_batch(2, 9)]}
    for name in ("grpo", "ppo"):
        trainer = rollout_trainer(name, passes=2, steps=2, evaluate_every=1, arguments=arguments)
        row = trainer.train()
        assert "eval/loss" in row
        assert "time/sample_seconds" not in row  # the second pass samples nothing


def test_an_evaluation_leaves_dropout_as_it_was(rollout_trainer):
    """The adapter has dropout: off in the updates, before the first evaluation and after it."""
    evaluators = [lambda model, step: {"eval/x": 0.0}]
    trainer = rollout_trainer("ppo", lora=True, steps=1, arguments={"evaluators": evaluators})
    trainer.evaluate()
    assert [name for name, module in trainer.unwrapped_model.named_modules() if module.training] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0, "kl_target": 6.0}, "beta is 0"),
        ({"kl_target": 6.0, "kl_horizon": 2.0}, "kl_horizon 2 is"),
    ],
)
def test_a_coefficient_that_cannot_adapt_is_refused(settings, message, rollout_trainer):
    with pytest.raises(ValueError, match=message):
        rollout_trainer("ppo", **settings)


def test_epochs_count_batches_of_prompts_each_of_which_gives_several_steps(rollout_trainer):
    trainer = rollout_trainer("ppo", steps=None, epochs=2.0, passes=2, minibatches=3)
    assert trainer.num_steps == 2 * 4 * 2 * 3
