"""GRPO's own laws: what is computed, what is fixed between updates, what is left out, and alarms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from workbench.errors import DataError, DivergenceError
from workbench.objectives.policy_gradient import POLICY_LOSSES
from workbench.trainer import GRPOTrainer
from workbench.trainer.online import online_trainer, policy_gradient
from workbench.trainer.online.scoring import predicting_states, rollout_logprobs

LOSSES = {
    "grpo": {},
    "dapo": {},
    "dr_grpo": {},
    "gspo": {"clip_low": 0.02, "clip_high": 0.02},
    "cispo": {"ratio_ceiling": 1.2},
    "luspo": {"clip_low": 0.02, "clip_high": 0.02},
    "sapo": {},
}
GAP = policy_gradient.GAP


def late_letters(completions, prompts):
    """Without signal for prompts that begin with a letter up to `h`."""
    return [
        0.3 if prompt[0] <= "h" else sum(letter > "i" for letter in text) / (len(text) + 1)
        for text, prompt in zip(completions, prompts, strict=True)
    ]


def has_signal(prompt):
    return prompt[0] > "h"


@pytest.fixture
def first_gradients(torch):
    """first_gradients(trainer) -> rows and gradients of its steps."""

    def run(trainer):
        gradients = []
        trainer.optimizer.register_step_pre_hook(
            lambda *_: gradients.append(torch.cat([p.grad.flatten() for p in trainer.parameters]))
        )
        trainer.train()
        return trainer.rows, gradients

    return run


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, {"group_size": 2}])
def test_without_updates_the_recorded_gap_of_sampler_and_trainer_is_rounding(
    settings, rollout_trainer, first_gradients
):
    rows, _ = first_gradients(rollout_trainer(steps=4, learning_rate=0.0, passes=2, **settings))
    assert [GAP in row for row in rows] == [True, False, True, False]  # measured where the weights are the sampler's
    assert all(0.0 < row[GAP] < 1e-4 for row in rows[::2])
    assert all(row["clip_ratio/region_mean"] == 0.0 for row in rows)


def test_a_sampler_with_other_weights_raises_an_alarm_in_one_step(rollout_trainer, small_llama, monkeypatch):
    sample, other = online_trainer.sample, small_llama(seed=5)
    monkeypatch.setattr(online_trainer, "sample", lambda model, *args, **more: sample(other, *args, **more))
    trainer = rollout_trainer()
    with pytest.raises(DivergenceError, match=r"step 1: sampler and trainer differ by .* the sampler holds other") as e:
        trainer.train()
    assert (e.value.exit_code, trainer.step) == (6, 0)


def test_truncated_sampling_records_its_gap_and_goes_on(rollout_trainer):
    trainer = rollout_trainer(top_p=0.6, steps=2)
    assert trainer.train()[GAP] > 0.01


@pytest.mark.parametrize("loss", LOSSES)
def test_leaving_out_completions_without_advantage_moves_no_number(
    loss, torch, rollout_trainer, first_gradients, monkeypatch
):
    settings = {"loss": loss, **LOSSES[loss], "reward_fn": late_letters, "passes": 2, "steps": 2, "learning_rate": 1e-5}
    assert len(rollout_trainer(**settings).updates_of().batches[0]["completion_ids"]) < 12  # some are left out
    rows, gradients = first_gradients(rollout_trainer(**settings))
    cut = policy_gradient.cut_rollout
    monkeypatch.setattr(
        policy_gradient,
        "cut_rollout",
        lambda rows, _, counted, *rest, **options: cut(rows, counted, counted, *rest, **options),
    )
    whole_rows, whole_gradients = first_gradients(rollout_trainer(**settings))
    assert whole_gradients[1].norm() > 1e-4
    for found, expected in zip(gradients, whole_gradients, strict=True):
        assert ((found - expected).norm() / expected.norm()).item() <= 1e-5
    names = ["loss", "grad_norm", "clip_ratio/low_mean", "clip_ratio/high_mean"]
    for found, expected in zip(rows, whole_rows, strict=True):
        assert {n: found[n] for n in names} == pytest.approx({n: expected[n] for n in names}, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("more", [{}, {"importance_correction": "token_truncate"}])
def test_old_logprobs_are_fixed_before_the_first_update_and_each_pass_meets_each_prompt_once(
    more, torch, rollout_trainer
):
    trainer = rollout_trainer(passes=2, minibatches=3, steps=6, learning_rate=0.05, entropy_bonus=1e-6, **more)
    updates = trainer.updates_of().batches
    assert [batch["fresh"].tolist() for batch in updates] == [[1.0] * 4] + [[0.0] * 4] * 5
    for start in (0, 3):
        prompts = torch.cat([batch["prompt_index"] for batch in updates[start : start + 3]])
        assert prompts.sort().values.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for batch in updates:
        own = trainer.logprobs_of(batch)
        torch.testing.assert_close(batch["old_logprobs"], own * batch["completion_mask"], rtol=1e-5, atol=1e-5)
    row = trainer.train()
    assert row["clip_ratio/region_mean"] > 0.0  # the policy has moved
    [made] = trainer.made
    for learned, before in zip(made.batches, updates, strict=True):
        assert torch.equal(learned["old_logprobs"], before["old_logprobs"])
    assert trainer.batches_taken == 1


def test_dynamic_sampling_fills_the_rollout_with_groups_that_have_a_signal(rollout_trainer, prompt_batch):
    batches = [prompt_batch(3, seed) for seed in range(4)]
    signals = [sum(map(has_signal, batch["texts"])) for batch in batches]
    needed = next(n for n in range(1, 5) if sum(signals[:n]) >= 3)
    assert needed > 1
    trainer = rollout_trainer(batches=batches, reward_fn=late_letters, dynamic_sampling=4, steps=1)
    row = trainer.train()
    entries = trainer.made[0].completions
    prompts = [entry["prompt"] for entry in entries[::4]]
    assert (row["sampling/rounds"], trainer.batches_taken) == (needed, needed)
    # Of all that was sampled.
    assert row["frac_reward_zero_std"] == pytest.approx(1 - sum(signals[:needed]) / (3 * needed))
    assert [entry["prompt"] for entry in entries] == [prompt for prompt in prompts for _ in range(4)]
    assert len(prompts) == 3
    assert all(map(has_signal, prompts))
    able = [text for batch in batches[:needed] for text in batch["texts"] if has_signal(text)]
    assert prompts == [text for text in able if text in prompts], "in the order sampled"


def test_dynamic_sampling_drops_no_place_in_the_batch_more_than_another(torch, rollout_trainer, prompt_batch):
    # Batches are sorted by length: were the surplus always cut at the end, long prompts would be learned from less.
    kept = [0] * 6

    class Counts:
        state: Any

        def _with_signal(self, parts):
            able = replace(parts[0], rewards=torch.arange(len(parts[0].rewards)).double())
            for step in range(300):
                self.state.step = step
                for group in super()._with_signal([able, able]).group_ids.unique().tolist():
                    kept[group] += 1
            self.state.step = 0
            return able

    rollout_trainer(mixin=Counts, reward_fn=late_letters, dynamic_sampling=4, steps=1).train()
    assert sum(kept) == 300 * 3
    assert min(kept) > 120
    assert max(kept) < 180


def test_dynamic_sampling_ends_at_its_limit_and_learns_from_what_there_is(rollout_trainer, prompt_batch):
    batch = prompt_batch(3, 0)
    only = next(text for text in batch["texts"])
    trainer = rollout_trainer(
        batches=[batch],
        reward_fn=lambda completions, prompts: [
            float(len(text)) if prompt == only else 0.0 for text, prompt in zip(completions, prompts, strict=True)
        ],
        dynamic_sampling=1,
        minibatches=3,
        steps=3,
    )
    assert trainer.train()["step"] == 3
    assert trainer.batches_taken == 2


def test_overlong_masking_takes_cut_completions_out_of_loss_and_divisor(torch, collate, make_rows, small_llama):
    """Loss x units over those that ended, and over the others, add up to all of it; gradients likewise."""
    made = collate("grpo", make_rows(6))
    ended = torch.tensor([True, False, True, True, False, True])

    def run(loss, ended, overlong):
        settings = {"steps": 1, "precision": "float32", "device": "cpu", "max_grad_norm": None, "overlong": overlong}
        trainer = GRPOTrainer(
            small_llama("float64"),
            None,
            [made | {"ended": ended}],
            settings=GRPOTrainer.settings_class(**settings, loss=loss, **LOSSES[loss]),
        )
        seen = []
        trainer.optimizer.register_step_pre_hook(
            lambda *_: seen.append(torch.cat([p.grad.flatten() for p in trainer.parameters]))
        )
        return trainer.train()["loss"], seen[0]

    for loss in LOSSES:
        reduction = POLICY_LOSSES[loss].reduction
        units = reduction.units(made["response_mask"].sum(1), 64)
        (total, gradient), *parts = [run(loss, *case) for case in ((ended, "keep"), (ended, "mask"), (~ended, "mask"))]
        shares = [units[ended].sum() / units.sum(), units[~ended].sum() / units.sum()]
        assert sum(share * part[0] for share, part in zip(shares, parts, strict=True)) == pytest.approx(total, rel=1e-6)
        summed = sum(share * part[1] for share, part in zip(shares, parts, strict=True))
        torch.testing.assert_close(summed, gradient, rtol=1e-6, atol=1e-9)


def test_a_rollout_whose_completions_were_all_cut_stops_and_says_so(rollout_trainer):
    tokenizer = NeverEnds(rollout_trainer().tokenizer)
    trainer = rollout_trainer(overlong="mask", max_new_tokens=1, arguments={"tokenizer": tokenizer})
    with pytest.raises(DivergenceError, match=r"step 1: .* cut at max_new_tokens 1, .*overlong: keep") as stopped:
        trainer.train()
    assert stopped.value.exit_code == 6


class NeverEnds:
    """A tokenizer without an end of sequence."""

    eos_ids = ()

    def __init__(self, tokenizer):
        self.decode_batch = tokenizer.decode_batch


def test_a_minibatch_whose_completions_were_all_cut_is_left_out(torch, rollout_trainer):
    class OnePromptCut:
        def _roll_out(self, batch, *rest):
            rollout = super()._roll_out(batch, *rest)
            rollout.ended.copy_(rollout.prompt_index != 1)
            return rollout

    trainer = rollout_trainer(mixin=OnePromptCut, overlong="mask", minibatches=3, steps=3)
    assert trainer.train()["step"] == 3
    assert trainer.batches_taken == 2  # two updates of the first, one of the second


def test_a_kl_penalty_in_the_reward_is_summed_over_the_completion_before_the_baseline(
    torch, rollout_trainer, small_llama
):
    trainer = rollout_trainer(
        beta=0.5, kl="k1", kl_in="reward", advantage="mean_only", arguments={"ref_model": small_llama(seed=1)}
    )
    made = trainer.updates_of()
    [batch], rewards = made.batches, torch.tensor([entry["reward"] for entry in made.completions])
    with torch.no_grad():
        own, reference = (
            rollout_logprobs(predicting_states(model, batch), batch, 1.0)
            for model in (small_llama(), small_llama(seed=1))
        )

    def above_mean(values):
        return values.view(3, 4) - values.view(3, 4).mean(1, keepdim=True)

    advantages = batch["advantages"].view(3, 4)
    torch.testing.assert_close(advantages, above_mean(rewards - 0.5 * (own - reference).sum(1)), rtol=1e-4, atol=1e-4)
    assert (advantages - above_mean(rewards)).abs().max() > 0.1


def test_a_start_that_is_its_own_reference_has_no_kl_and_a_copy_that_stays(torch, rollout_trainer, small_llama):
    trainer = rollout_trainer(beta=0.1, steps=1)
    assert trainer.train()["kl"] == pytest.approx(0.0, abs=1e-9)
    for name, value in small_llama().named_parameters():
        assert torch.equal(trainer.reference.model.get_parameter(name), value)
        assert not torch.equal(trainer.policy.get_parameter(name), value)
    without = rollout_trainer(steps=1)
    without.train()
    assert without.reference.model is None


def test_importance_correction_weighs_tokens_by_trainer_over_sampler(torch, rollout_trainer):
    """Tokens that a truncated sampler favours weigh less, by the mass that it kept."""
    settings = {"steps": 1, "top_k": 3, "entropy_bonus": 1e-9}
    plain = rollout_trainer(**settings)
    corrected = rollout_trainer(importance_correction="token_truncate", importance_cap=2.0, **settings)
    (batch,) = corrected.updates_of().batches
    own = plain.logprobs_of(batch)
    losses = [trainer.train()["loss/policy"] * batch["units"].sum().item() for trainer in (plain, corrected)]
    ratio = (own - batch["sampler_logprobs"]).exp().clamp(max=2.0)
    expected = -(ratio * batch["advantages"][:, None] * batch["completion_mask"]).sum().item()
    assert losses[1] == pytest.approx(expected, rel=1e-4)
    assert losses[0] == pytest.approx(-(batch["advantages"][:, None] * batch["completion_mask"]).sum().item(), rel=1e-4)
    assert losses[0] != pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize(
    ("loss", "advantage"),
    [
        *((loss, "group_std") for loss in LOSSES),
        *(("dapo", advantage) for advantage in ("batch_std", "rloo", "mean_only", "reinforce_plus_plus")),
    ],
)
def test_every_loss_and_advantage_raises_what_is_rewarded(loss, advantage, rollout_trainer):
    """The probability of rewarded completions rises over an update."""
    trainer = rollout_trainer(loss=loss, advantage=advantage, steps=1, learning_rate=1e-3, **LOSSES[loss])
    batch = trainer.updates_of().batches[0]
    before = trainer.logprobs_of(batch).sum(1)
    trainer.train()
    gained = trainer.logprobs_of(batch).sum(1) - before
    assert (gained * batch["advantages"]).sum() > 0


def test_a_correction_of_completions_made_elsewhere_raises_no_alarm(collate, make_rows, rollout_trainer):
    """Their old log-probabilities are a sampler's that held other weights: that is what the correction is for."""
    batch = collate("grpo", make_rows(4))
    plain, corrected = (
        rollout_trainer("grpo", batches=[batch], steps=1, importance_correction=name).train()
        for name in ("none", "token_truncate")
    )
    assert corrected["loss"] != plain["loss"]
    assert "sampling/sampling_logp_difference/mean" not in corrected


def test_truncated_sampling_takes_its_ratios_to_the_whole_distribution(rollout_trainer):
    """Else every ratio would begin at the mass that was kept, and clips would bite before any update."""
    row = rollout_trainer("grpo", top_k=3, passes=2, learning_rate=0.0, steps=1).train()
    assert row["clip_ratio/region_mean"] == 0.0
    row = rollout_trainer("ppo", top_k=3, passes=2, learning_rate=0.0, steps=1, beta=0.1).train()
    assert row["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert row["objective/kl"] == pytest.approx(0.0, abs=1e-4)


def test_ppo_raises_the_alarm_of_a_sampler_with_other_weights_too(rollout_trainer, small_llama, monkeypatch):
    sample, other = online_trainer.sample, small_llama(seed=5)
    monkeypatch.setattr(online_trainer, "sample", lambda policy, *rest, **options: sample(other, *rest, **options))
    with pytest.raises(DivergenceError, match="sampler and trainer differ"):
        rollout_trainer("ppo").train()


def test_a_step_that_is_not_finite_is_treated_as_declared_and_not_as_a_gap(torch, rollout_trainer):
    class NotFinite:
        def _forward(self, batch):
            return super()._forward(batch)[0] * torch.nan, None

    assert rollout_trainer("grpo", mixin=NotFinite, steps=1, non_finite="skip").train()["skipped"] == 1.0


def test_a_kl_penalty_in_the_reward_is_no_signal_of_its_own(rollout_trainer):
    with pytest.raises(ValueError, match="divides a group of equal rewards by the noise"):
        rollout_trainer("grpo", beta=0.1, kl="k1", kl_in="reward")


def test_columns_of_completions_made_elsewhere_must_fit(torch, collate, make_rows, rollout_trainer):
    batch = collate("grpo", make_rows(4))
    batch["old_logprobs"] = batch["old_logprobs"][:, 1:]
    with pytest.raises(DataError, match=r"batch 1: old_logprobs is \(4, \d+\), responses is \(4, \d+\)"):
        rollout_trainer("grpo", batches=[batch]).train()
