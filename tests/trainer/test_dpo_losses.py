"""What DPO's losses read beside one pair: other pairs, other tokens, and a reference that moves."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.errors import DataError, DefinitionError
from workbench.models.adapters import add_lora
from workbench.models.settings import LoraSettings
from workbench.trainer import DPOTrainer
from workbench.trainer.pairs import completion_logprobs, pair_logprobs

SETTINGS = {"steps": 2, "precision": "float32", "device": "cpu", "beta": 0.5}


@pytest.fixture
def dpo(small_llama, collate, make_rows):
    """dpo(batches=..., arguments=..., **settings) -> a trainer whose reference is another model."""

    def make(*, model=None, batches=None, arguments=None, **settings):
        settings = SETTINGS | {"starts_from_reference": False} | settings
        batches = batches or [collate("dpo", make_rows(4)), collate("dpo", make_rows(3, 1))]
        arguments = {"ref_model": small_llama(seed=1)} if arguments is None else arguments
        return DPOTrainer(model or small_llama(), None, batches, settings=settings, **arguments)

    return make


def log_ratios(batch, policy, reference):
    """(B,) of chosen and of rejected."""
    with torch.no_grad():
        sums = completion_logprobs(policy, batch)[0] - completion_logprobs(reference, batch)[0]
    return sums.chunk(2)


def test_the_shift_of_bco_is_the_mean_of_all_rewards_so_far(dpo, small_llama, collate, make_rows):
    batches = [collate("dpo", make_rows(number, seed)) for seed, number in enumerate((4, 3))]
    trainer = dpo(batches=batches, loss="bco_pair", learning_rate=0.0, arguments=None)
    rewards = [0.5 * torch.cat(log_ratios(b, small_llama(), small_llama(seed=1))).double() for b in batches]
    for seen in (rewards[:1], rewards):
        trainer.train_step()
        shift = torch.cat(seen).mean().item()
        assert trainer.updates.state == {
            "mean_reward": pytest.approx(shift, rel=1e-5),
            "num_rewards": 2 * 4 + 6 * (len(seen) - 1),
        }
        chosen, rejected = seen[-1].chunk(2)
        expected = -torch.nn.functional.logsigmoid(torch.cat((chosen - shift, shift - rejected))).sum() / len(chosen)
        assert trainer.state.pending_row["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_held_out_pairs_are_judged_by_the_shift_and_do_not_move_it(dpo, collate, make_rows, small_llama):
    held_out = collate("dpo", make_rows(5, 7))
    trainer = dpo(
        loss="bco_pair", learning_rate=0.0, arguments={"ref_model": small_llama(seed=1), "val_loader": [held_out]}
    )
    trainer.train_step()
    before = trainer.updates.state
    found = trainer.evaluate()["eval/loss"]
    assert trainer.updates.state == before
    chosen, rejected = (0.5 * side for side in log_ratios(held_out, small_llama(), small_llama(seed=1)))
    shift = before["mean_reward"]
    expected = -torch.nn.functional.logsigmoid(torch.cat((chosen - shift, shift - rejected))).sum() / 5
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_losses_together_are_each_a_term_with_its_weight(dpo):
    row = dpo(steps=1, loss={"hinge": 0.5, "aot_unpaired": 2.0}, nll_weight=0.25).train()
    assert row["loss"] == pytest.approx(
        0.5 * row["loss/hinge"] + 2.0 * row["loss/aot_unpaired"] + 0.25 * row["loss/nll"], rel=1e-6
    )
    alone = dpo(steps=1, loss="aot_unpaired").train()
    assert row["loss/aot_unpaired"] == pytest.approx(alone["loss"], rel=1e-6)


def test_a_statistic_over_the_step_costs_a_pass_more(dpo):
    plain, over_step = (dpo(steps=1, loss=loss).train() for loss in ("hinge", "bco_pair"))
    more = over_step["cost/flops"] - plain["cost/flops"]
    assert over_step["cost/scored_tokens"] == 2 * plain["cost/scored_tokens"] > 0
    assert 0.2 < more / plain["cost/flops"] < 0.3  # of reference 1, forward 1 and backward 2


def test_a_discount_takes_off_tokens_beyond_the_shorter_completion(dpo, collate, small_llama):
    batch = collate("dpo", [([1, 2], [3, 4, 5, 6], [7, 8])], left=True, extra=2)
    policy, reference = small_llama(), small_llama(seed=1)
    with torch.no_grad():
        (_, own, own_rejected), (_, ref, ref_rejected) = (completion_logprobs(m, batch) for m in (policy, reference))
    ratios = (own - ref)[0][batch["chosen_attention_mask"][0]]
    expected = ratios[:2].sum() + 0.25 * ratios[2:].sum() - (own_rejected - ref_rejected).sum()
    row = dpo(batches=[batch], steps=1, length_discount=0.75).train()
    assert row["loss"] == pytest.approx(-torch.nn.functional.logsigmoid(0.5 * expected).item(), rel=1e-5)
    # The metrics are of whole completions, so that runs of different losses compare.
    assert row["rewards/chosen"] == pytest.approx(0.5 * ratios.sum().item(), rel=1e-5)


def test_the_alignment_of_a_uniform_policy_is_none(collate):
    """Of a uniform policy log p = log sum p^2 = -log V, so that each pair counts 1."""

    class Uniform(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids, **_):
            import types

            return types.SimpleNamespace(logits=self.weight.expand(*input_ids.shape, 17))

    scores = pair_logprobs(Uniform(), collate("dpo", [([1, 2], [3, 4, 5], [7])]), aligned=True)
    assert scores.sums.tolist() == pytest.approx([-3 * math.log(17), -math.log(17)], rel=1e-6)
    assert scores.alignments.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_reference_moves_after_every_second_step(dpo, weight, small_llama):
    trainer = dpo(
        arguments={}, steps=4, learning_rate=0.01, sync_reference_every=2, sync_reference_weight=weight,
        starts_from_reference=True,
    )  # fmt: skip
    expected = [p.detach().clone() for p in small_llama().parameters()]
    for step in range(1, 5):
        trainer.train_step()
        if step % 2 == 0:
            policy = trainer.policy.parameters()
            expected = [(1 - weight) * old + weight * new.detach() for old, new in zip(expected, policy, strict=True)]
        for found, wanted in zip(trainer.reference.model.parameters(), expected, strict=True):
            torch.testing.assert_close(found, wanted)


def test_a_reference_that_became_the_policy_gives_no_margin(dpo):
    trainer = dpo(arguments={}, steps=3, learning_rate=0.01, sync_reference_every=2, starts_from_reference=True)
    margins = []
    for _ in range(3):
        trainer.train_step()
        margins.append(trainer.state.pending_row["rewards/margins"])
    assert margins[1] != 0.0
    assert margins[2] == pytest.approx(0.0, abs=1e-5)
    assert trainer.costs.scored_tokens > 0


def with_adapter(model):
    add_lora(model, LoraSettings(rank=2), seed=0)
    return model


def test_a_reference_that_cannot_move_is_refused_by_name(dpo, small_llama, collate, make_rows):
    moving = {"sync_reference_every": 2}
    with pytest.raises(DefinitionError, match=r"the reference is another model \(ref_model\), which cannot be moved"):
        dpo(**moving)
    with pytest.raises(DefinitionError, match="the policy with its adapter switched off, which cannot be moved"):
        dpo(model=with_adapter(small_llama()), arguments={}, **moving)
    batch = collate("dpo", make_rows(2))
    known = {f"ref_{side}_logprobs": torch.zeros(batch[f"{side}_input_ids"].shape) for side in ("chosen", "rejected")}
    with pytest.raises(DataError, match="sync_reference_every moves the reference; leave ref_chosen_logprobs"):
        dpo(batches=[batch | known], arguments={}, **moving).train()


def test_pairs_that_are_compared_by_rank_cannot_be_weighed(dpo, collate, make_rows):
    batch = collate("dpo", make_rows(2)) | {"pair_weights": torch.tensor([1.0, 0.5])}
    with pytest.raises(DataError, match="aot cannot weigh pairs"):
        dpo(batches=[batch], loss="aot").train()
