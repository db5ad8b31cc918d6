"""RLOO's and REINFORCE++'s own laws: where the KL is taken, what is normalised, when nothing is learned."""

from __future__ import annotations

import pytest

from workbench.trainer.online.scoring import predicting_states, rollout_logprobs


@pytest.fixture
def first_update(torch, small_llama):
    """first_update(trainer) -> the first update of the first rollout, the rewards (N,), and log π/π_start (N, T)."""

    def make(trainer):
        made = trainer.updates_of()
        batch = made.batches[0]
        with torch.no_grad():
            own, start = (
                rollout_logprobs(predicting_states(model, batch), batch, 1.0)
                for model in (small_llama(), small_llama(seed=1))
            )
        return batch, torch.tensor([entry["reward"] for entry in made.completions]), own - start

    return make


@pytest.mark.parametrize("whiten", [False, True])
def test_rloo_takes_the_summed_kl_from_the_reward_before_the_baseline(
    torch, rollout_trainer, small_llama, first_update, whiten
):
    arguments = {"ref_model": small_llama(seed=1)}
    trainer = rollout_trainer("rloo", beta=0.5, whiten_advantages=whiten, steps=1, arguments=arguments)
    batch, rewards, divergence = first_update(trainer)
    values = (rewards - 0.5 * divergence.sum(1)).view(3, 4)
    expected = values - (values.sum(1, keepdim=True) - values) / 3
    expected = expected / (expected.std() + 1e-4) if whiten else expected
    torch.testing.assert_close(batch["advantages"].view(3, 4), expected, rtol=1e-4, atol=1e-4)
    assert trainer.train()["kl"] == pytest.approx((divergence.sum() / batch["completion_mask"].sum()).item(), rel=1e-4)


def test_reinforce_pp_takes_the_kl_from_each_token_and_normalises_over_all_of_them(
    torch, rollout_trainer, small_llama, first_update
):
    arguments = {"ref_model": small_llama(seed=1)}
    trainer = rollout_trainer("reinforce_pp", beta=0.3, arguments=arguments)
    batch, rewards, divergence = first_update(trainer)
    mask = batch["completion_mask"]
    from_here_on = divergence.flip(1).cumsum(1).flip(1)
    returns = (rewards[:, None] - 0.3 * from_here_on)[mask].double()
    expected = (returns - returns.mean()) / returns.std(correction=0)
    torch.testing.assert_close(batch["advantages"][mask].double(), expected, rtol=1e-4, atol=1e-4)
    assert batch["advantages"][~mask].abs().sum() == 0.0


def test_reinforce_pp_normalises_over_the_whole_step_and_not_over_a_minibatch(torch, rollout_trainer):
    updates = rollout_trainer("reinforce_pp", beta=0.0, minibatches=3).updates_of().batches
    advantages = torch.cat([batch["advantages"][batch["completion_mask"]] for batch in updates]).double()
    assert advantages.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert advantages.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert all(abs(b["advantages"][b["completion_mask"]].mean().item()) > 1e-2 for b in updates)


@pytest.mark.parametrize("name", ["rloo", "reinforce_pp"])
def test_equal_rewards_teach_exactly_nothing(torch, name, rollout_trainer):
    trainer = rollout_trainer(name, beta=0.0, reward_fn=lambda completions, **_: [0.7] * len(completions), steps=1)
    before = [parameter.detach().clone() for parameter in trainer.policy.parameters()]
    row = trainer.train()
    assert (row["loss"], row["grad_norm"]) == (0.0, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.policy.parameters(), strict=True))


@pytest.mark.parametrize("name", ["rloo", "reinforce_pp"])
def test_what_is_rewarded_becomes_likelier(name, rollout_trainer):
    trainer = rollout_trainer(name, steps=1)
    batch = trainer.updates_of().batches[0]
    before = trainer.logprobs_of(batch)
    trainer.train()
    advantages = batch["advantages"] if batch["advantages"].ndim == 2 else batch["advantages"][:, None]
    assert ((trainer.logprobs_of(batch) - before) * advantages).sum() > 0


def test_without_a_kl_there_is_no_reference(rollout_trainer):
    for name in ("rloo", "reinforce_pp"):
        trainer = rollout_trainer(name, beta=0.0, steps=1)
        assert "kl" not in trainer.train()
        assert trainer.reference.model is None
