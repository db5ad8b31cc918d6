"""Distillation's own laws: the teacher's whole distribution, own samples drawn by row, every pass charged."""

from __future__ import annotations

import pytest

from tests.flops import flop_counter
from tests.trainer.test_flops_are_counted import LARGE, long_rows, of_transformers
from tests.trainers import Watched, without_clocks
from workbench.errors import DataError, DefinitionError
from workbench.trainer.rows import learned

TEACHER = {"seed": 1, "hidden_size": 32, "num_hidden_layers": 3, "head_dim": 8}


@pytest.fixture
def distill(make_trainer, small_llama):
    """distill(batches, **settings) -> a trainer of three steps whose teacher is larger than its student."""

    def make(batches, arguments=None, **more):
        given = {"val_loader": None, "ref_model": small_llama(**TEACHER)} | (arguments or {})
        chosen = {"on_policy_share": 0.0, "steps": 3, "max_new_tokens": 5} | more
        return make_trainer("distill", batches=batches, arguments=given, mixin=Watched, **chosen)

    return make


def update_of(trainer, batch):
    """The batch that a step would learn from."""
    (update,) = trainer.updates_of(batch).batches
    return update


def texts(batch):
    """What each row reads and what of it is learned, whatever its padding."""
    rows = zip(batch["input_ids"], batch["attention_mask"].bool(), batch["labels"], strict=True)
    return [(ids[mask].tolist(), labels[mask].tolist()) for ids, mask, labels in rows]


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_the_loss_is_the_mean_divergence_of_whole_distributions_over_completion_tokens(
    torch, distill, collate, make_rows, tau
):
    batch = collate("distill", make_rows(4))
    trainer = distill([batch], beta=0.3, loss_temperature=tau, steps=1)
    with torch.no_grad():
        s, p = (
            [
                model(ids[mask.bool()][None]).logits[0].double().div(tau).softmax(-1)
                for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
            ]
            for model in (trainer.policy, trainer.ref_model)
        )
    total, count = 0.0, 0
    for own, wanted, labels in zip(s, p, batch["labels"], strict=True):
        for position in (labels[1 : len(own)] != -100).nonzero().flatten().tolist():
            mixture = 0.3 * wanted[position] + 0.7 * own[position]
            total += 0.3 * (wanted[position] * (wanted[position] / mixture).log()).sum().item()
            total += 0.7 * (own[position] * (own[position] / mixture).log()).sum().item()
            count += 1
    assert trainer.train()["loss"] == pytest.approx(tau**2 * total / count, rel=1e-5)


def test_a_share_of_rows_is_completed_by_the_student_and_the_others_stay(distill, collate, make_rows):
    batch = collate("distill", make_rows(40))
    trainer = distill([batch], on_policy_share=0.5)
    update, given = update_of(trainer, batch), texts(batch)
    own = update["is_sampled"].tolist()
    assert 10 < sum(own) < 30
    for is_own, (ids, labels), (old_ids, old_labels) in zip(own, texts(update), given, strict=True):
        start = next(place for place, label in enumerate(old_labels) if label != -100)
        assert ids[:start] == old_ids[:start]
        if is_own:
            assert labels == [-100] * start + ids[start:]
            assert len(ids) == start + 5  # none of these models' tokens ends a text
        else:
            assert (ids, labels) == (old_ids, old_labels)
    assert sum(ids != old for (ids, _), (old, _) in zip(texts(update), given, strict=True)) == sum(own)


def test_what_a_row_becomes_does_not_depend_on_the_rows_beside_it(distill, collate, make_rows):
    rows = make_rows(12)
    trainer = distill([collate("distill", rows)], on_policy_share=0.5)
    whole = texts(update_of(trainer, collate("distill", rows)))
    for padding in ({}, {"left": True, "extra": 2}):
        turned = texts(update_of(trainer, collate("distill", rows[::-1], **padding)))
        assert turned == whole[::-1]
    parts = [texts(update_of(trainer, collate("distill", rows[start::2]))) for start in (0, 1)]
    assert [parts[place % 2][place // 2] for place in range(12)] == whole


def test_another_step_draws_other_rows_and_completes_them_otherwise(distill, collate, make_rows):
    batch = collate("distill", make_rows(12))
    trainer = distill([batch], on_policy_share=0.5, learning_rate=0.0)
    before = texts(update_of(trainer, batch))
    trainer.train_step()
    assert texts(update_of(trainer, batch)) != before


def test_at_share_1_the_completions_of_the_data_change_nothing(torch, distill, collate, make_rows):
    rows = [(prompt, [4, 5, 6], []) for prompt, _, _ in make_rows(6)]
    found = []
    for completion in ([4, 5, 6], [7, 8, 9]):
        # Whether a row is drawn is decided by all of it; at share 1 each is.
        trainer = distill([collate("distill", [(p, completion, []) for p, _, _ in rows])], on_policy_share=1.0)
        trainer.train()
        found.append(torch.cat([part.flatten() for part in trainer.parameters]))
    assert torch.equal(*found)


def test_the_divergence_is_recorded_by_source(distill, collate, make_rows):
    row = distill([collate("distill", make_rows(12))], on_policy_share=0.5, steps=1).train()
    update_tokens = row["own_tokens"]
    assert 0 < update_tokens < 1
    mixed = update_tokens * row["divergence/student"] + (1 - update_tokens) * row["divergence/data"]
    assert row["loss"] == pytest.approx(mixed, rel=1e-5)


@pytest.mark.parametrize("micro_batch_rows", [None, 2])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["own", "transformers"])
def test_the_teacher_is_charged_in_full_at_each_step(small_llama, distill, collate, kind, share, micro_batch_rows):
    model = small_llama(**LARGE) if kind == "own" else of_transformers()
    teacher = small_llama(**LARGE | {"hidden_size": 96, "intermediate_size": 200, "head_dim": 24}, seed=1)
    trainer = distill(
        [collate("distill", long_rows(6))],
        model=model,
        arguments={"ref_model": teacher},
        on_policy_share=share,
        micro_batch_rows=micro_batch_rows,
    )
    assert not trainer.charges.reference.uncounted  # its layers are counted here, in passes that no step makes
    counter = flop_counter()
    with counter:
        trainer.train_step()
    assert trainer.costs.flops == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert trainer.costs.scored_tokens == trainer.costs.trained_tokens
    assert (trainer.costs.generated_tokens > 0) == (share > 0)


def test_a_mixed_step_counts_what_is_sampled_and_scored(distill, collate, make_rows):
    batch = collate("distill", make_rows(12))
    trainer = distill([batch], on_policy_share=0.5)
    update = update_of(trainer, batch)
    trainer.train_step()
    assert trainer.costs.generated_tokens == 5 * int(update["is_sampled"].sum())
    assert trainer.costs.scored_tokens == trainer.costs.trained_tokens == int(update["attention_mask"].sum())


def test_the_student_learns_what_a_larger_teacher_says(distill, collate, make_rows):
    batch = collate("distill", make_rows(12))
    for beta in (0.0, 0.5, 1.0):
        trainer = distill([batch], beta=beta, steps=40, learning_rate=1e-2, arguments={"val_loader": [batch]})
        before = trainer.evaluate()["eval/loss"]
        assert trainer.train()["eval/loss"] < 0.7 * before


def with_teacher_logprobs(torch, teacher, batch):
    """The batch with what the teacher says of every token that has one before it."""
    with torch.no_grad():
        logits = teacher(batch["input_ids"]).logits  # padding is on the right
    found = torch.zeros_like(logits)
    found[:, 1:] = logits[:, :-1].log_softmax(-1)
    return batch | {"teacher_logprobs": found}


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_stored_log_probabilities_teach_as_the_teacher_itself_and_cost_nothing_more(
    torch, distill, collate, make_rows, small_llama, tau
):
    batch = collate("distill", make_rows(6))
    asked = distill([batch], loss_temperature=tau, micro_batch_rows=2)
    stored = distill(
        [with_teacher_logprobs(torch, small_llama(**TEACHER), batch)],
        arguments={"ref_model": None},
        teacher_logprobs="stored",
        loss_temperature=tau,
    )
    rows = [trainer.train() for trainer in (asked, stored)]
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-5)
    weights = [torch.cat([part.flatten() for part in trainer.parameters]) for trainer in (asked, stored)]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    assert (stored.costs.scored_tokens, stored.costs.trained_tokens) == (0, asked.costs.trained_tokens)


def test_what_is_stored_is_of_the_data_alone_and_must_be_there(distill, collate, make_rows):
    batch = collate("distill", make_rows(2))
    with pytest.raises(DataError, match="batch 1 has no teacher_logprobs"):
        distill([batch], arguments={"ref_model": None}, teacher_logprobs="stored").train()
    with pytest.raises(ValueError, match="take each_step, or on_policy_share: 0"):
        distill([batch], teacher_logprobs="stored", on_policy_share=0.5)


def test_held_out_rows_are_those_of_the_data(distill, collate, make_rows):
    held_out = [collate("distill", make_rows(5, 3))]
    losses = [
        distill(held_out, on_policy_share=share, arguments={"val_loader": held_out}).evaluate()["eval/loss"]
        for share in (0.0, 1.0)
    ]
    assert losses[0] == losses[1]


def test_the_teacher_stays_as_it_was_and_has_no_dropout(torch, distill, collate, make_rows):
    trainer = distill([collate("distill", make_rows(4))])
    before = [part.clone() for part in trainer.ref_model.parameters()]
    trainer.train()
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.ref_model.parameters(), strict=True))
    assert not trainer.ref_model.training
    assert not any(part.requires_grad for part in trainer.ref_model.parameters())


def test_packed_rows_teach_as_rows_apart(torch, distill, collate, make_rows):
    rows = make_rows(3)
    parts = [collate("distill", [row]) for row in rows]
    packed = {key: torch.cat([part[key] for part in parts], 1) for key in ("input_ids", "labels")}
    packed["position_ids"] = torch.cat([torch.arange(p["input_ids"].shape[1]) for p in parts])[None]
    losses = [without_clocks(distill([b], steps=1).train())["loss"] for b in (collate("distill", rows), packed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with pytest.raises(DataError, match="batch 1: packed rows hold several prompts"):
        distill([packed], on_policy_share=0.5).train()


def test_without_a_teacher_or_with_one_of_another_vocabulary_nothing_begins(distill, collate, make_rows, small_llama):
    batches = [collate("distill", make_rows(2))]
    with pytest.raises(DefinitionError, match="a teacher is missing; pass it as ref_model"):
        distill(batches, arguments={"ref_model": None})
    with pytest.raises(DefinitionError, match="ref_model has a vocabulary of 18 tokens, the model one of 17"):
        distill(batches, arguments={"ref_model": small_llama(vocab_size=18)})


def test_a_row_without_a_prompt_is_refused_where_the_student_is_to_complete_it(distill, collate, make_rows):
    batch = collate("distill", make_rows(3))
    batch["labels"] = batch["input_ids"].masked_fill(~batch["attention_mask"], -100)
    with pytest.raises(DataError, match="row 0 has no prompt that could be completed"):
        distill([batch], on_policy_share=1.0).train()
    assert learned(batch).any()


@pytest.mark.parametrize(("name", "value"), [("on_policy_share", 1.5), ("beta", -0.1), ("loss_temperature", 0)])
def test_settings_out_of_range_are_refused_by_name(small_llama, name, value):
    from workbench.trainer import DistillTrainer

    with pytest.raises(DefinitionError, match=name):
        DistillTrainer(small_llama(), settings={name: value})
