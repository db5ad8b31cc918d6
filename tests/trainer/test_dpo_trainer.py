"""The DPO trainer: its reference, its first step, its rows."""

from __future__ import annotations

import math

import pytest

from workbench.errors import DataError, DivergenceError
from workbench.models.adapters import add_lora
from workbench.models.settings import LoraSettings


@pytest.fixture
def dpo(small_llama, collate, make_rows):
    def make(*, model=None, batches=None, arguments=None, **settings):
        from workbench.trainer import DPOTrainer

        chosen = {"steps": 1, "precision": "float32", "device": "cpu"} | settings
        return DPOTrainer(
            small_llama() if model is None else model,
            None,
            [collate("dpo", make_rows(4))] if batches is None else batches,
            settings=DPOTrainer.settings_class(**chosen),
            **(arguments or {}),
        )

    return make


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({"loss": "sigmoid"}, math.log(2)),
        ({"loss": "cdpo", "label_smoothing": 0.1}, math.log(2)),
        ({"loss": "robust", "label_smoothing": 0.1}, math.log(2)),
        ({"loss": "hinge"}, 1.0),
        ({"loss": "ipo"}, 25.0),
        ({"loss": "ipo_sum"}, 25.0),
        ({"loss": {"aot": 1.0, "bco_pair": 0.5}}, 2 * math.log(2)),
        ({"loss": {"sigmoid": 2.0, "hinge": 0.5}, "length_discount": 0.5}, 2 * math.log(2) + 0.5),
    ],
)
@pytest.mark.parametrize("lora", [False, True])
def test_the_first_step_has_the_known_loss(dpo, small_llama, settings, loss, lora):
    model = small_llama()
    if lora:
        add_lora(model, LoraSettings(rank=2), seed=0)
    row = dpo(model=model, **settings).train()
    assert row["loss"] == pytest.approx(loss, rel=1e-5)
    assert row["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert "start_gap" not in row


def test_an_added_nll_adds_itself(dpo):
    row = dpo(nll_weight=0.5).train()
    assert row["loss"] == pytest.approx(math.log(2) + 0.5 * row["loss/nll"], rel=1e-6)


def sums(torch, model, rows, side):
    found = []
    for row in rows:
        prompt, completion = row[0], row[side]
        logprobs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        found.append(sum(logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(completion)))
    return torch.tensor(found)


def test_loss_and_rewards_by_hand(torch, dpo, small_llama, make_rows):
    policy, reference, rows = small_llama(), small_llama(seed=1), make_rows(4)
    chosen, rejected = (sums(torch, policy, rows, s) - sums(torch, reference, rows, s) for s in (1, 2))
    row = dpo(beta=0.3, starts_from_reference=False, arguments={"ref_model": reference}).train()
    h = chosen - rejected
    assert row["loss"] == pytest.approx(-torch.nn.functional.logsigmoid(0.3 * h).mean().item(), rel=1e-5)
    assert row["rewards/chosen"] == pytest.approx(0.3 * chosen.mean().item(), rel=1e-4)
    assert row["rewards/margins"] == pytest.approx(0.3 * h.mean().item(), rel=1e-4)
    assert row["rewards/accuracies"] == (h > 0).float().mean().item()
    assert row["logps/chosen"] == pytest.approx(sums(torch, small_llama(), rows, 1).mean().item(), rel=1e-5)


def test_reference_logprobs_in_the_batch_are_taken_as_they_are(torch, dpo, small_llama, collate, make_rows):
    from workbench.trainer.pairs import completion_logprobs

    reference, batch = small_llama(seed=1), collate("dpo", make_rows(4))
    with torch.no_grad():
        _, chosen, rejected = completion_logprobs(reference, batch)
    stored = batch | {"ref_chosen_logprobs": chosen, "ref_rejected_logprobs": rejected}
    rows = [
        dpo(starts_from_reference=False, **more).train()
        for more in ({"batches": [stored]}, {"batches": [batch], "arguments": {"ref_model": reference}})
    ]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-6)
    assert rows[0]["cost/scored_tokens"] == 0 < rows[1]["cost/scored_tokens"]


def test_the_reference_is_the_start_and_never_moves(torch, dpo, small_llama):
    trainer = dpo(steps=3, learning_rate=0.1)
    trainer.train()
    start = list(small_llama().parameters())
    assert all(torch.equal(a, b) for a, b in zip(trainer.reference.model.parameters(), start, strict=True))
    assert not any(p.requires_grad for p in trainer.reference.model.parameters())
    assert not torch.equal(next(trainer.model.parameters()), start[0])


def test_the_reference_scores_in_smaller_batches_where_memory_is_short(torch, dpo, small_llama):
    def trained(fits):
        """The loss after two steps, the rows of a micro-batch, and the passes of the reference in the second step, of
        which one that reads more than a share of the first of them does not fit."""
        told = []
        trainer = dpo(steps=2, arguments={"ref_model": small_llama(seed=1)}, starts_from_reference=False)
        trainer.train_step()

        def embed(_, given):
            told.append(given[0].numel())
            if told[-1] > fits * told[0]:
                raise torch.OutOfMemoryError("out of memory")

        trainer.ref_model.get_input_embeddings().register_forward_pre_hook(embed)
        return trainer.train()["loss"], trainer.micro_batch_rows, len(told)

    (whole, _, once), (cut, rows, passes) = trained(fits=1), trained(fits=0.6)
    assert (once, rows, passes) == (1, 2, 3)
    assert cut == pytest.approx(whole, abs=1e-5)


def test_with_an_adapter_the_reference_is_the_adapter_switched_off(torch, dpo, small_llama, collate, make_rows):
    model = small_llama()
    add_lora(model, LoraSettings(rank=2), seed=0)
    trainer = dpo(model=model, steps=3, learning_rate=0.1)
    trainer.train()
    assert trainer.ref_model is None
    ids = collate("dpo", make_rows(4))["chosen_input_ids"]
    with trainer.reference.scoring() as reference, torch.no_grad():
        torch.testing.assert_close(reference(ids).logits, small_llama()(ids).logits)
    assert not torch.equal(trainer.policy(ids).logits, small_llama()(ids).logits)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_wrong_reference_stops_at_the_first_step(dpo, small_llama, precision):
    trainer = dpo(precision=precision, arguments={"ref_model": small_llama(seed=1)})
    with pytest.raises(DivergenceError, match=r"policy and reference differ by .* set starts_from_reference: false"):
        trainer.train()
    assert trainer.step == 0
    assert dpo(precision=precision).train()["loss"] == pytest.approx(math.log(2), abs=0.05)


@pytest.mark.parametrize("part", ["prompt", "chosen", "rejected"])
def test_an_empty_part_is_an_error_that_names_the_rows(dpo, collate, make_rows, part):
    batch = collate("dpo", make_rows(3))
    batch[f"{part}_attention_mask"][1] = False
    with pytest.raises(DataError, match=rf"batch 1: rows \[1\] have an empty {part}"):
        dpo(batches=[batch]).train()


def test_dropout_is_off_in_policy_and_reference(torch, dpo, small_llama):
    model = small_llama()
    add_lora(model, LoraSettings(rank=2, dropout=0.5), seed=0)
    trainer = dpo(model=model)
    trainer.train()
    assert not trainer.model.training


def test_training_raises_the_margin(dpo):
    assert dpo(steps=20, learning_rate=0.01).train()["rewards/margins"] > 0.1
