"""A batch is what the trainer's format says, becomes it where that is certain, or is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import DataError
from workbench.trainer import get_trainer_class
from workbench.trainer.batch_format import ROWS, BatchField, table
from workbench.trainer.registry import get_settings_class, trainer_names

SETTINGS = {"steps": 1, "device": "cpu", "precision": "float32"}


@pytest.fixture
def learn(small_llama, collate, make_rows):
    """learn(name, change, val=False) -> what a trainer of that name leaves, of a batch as `change` makes it."""

    def run(name, change=lambda batch: batch, **arguments):
        batch = collate(name, make_rows(4))
        trainer = get_trainer_class(name)(small_llama(), None, [change(batch)], settings=SETTINGS, **arguments)
        trainer.train()
        return trainer

    return run


def flat(torch, trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def without(*names):
    return lambda batch: {key: value for key, value in batch.items() if key not in names}


def having(**fields):
    return lambda batch: batch | {name: make(batch) for name, make in fields.items()}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dpo", without("prompt_attention_mask"), "missing: prompt_attention_mask; DPOTrainer takes a dict"),
        ("sft", without("labels"), r"found input_ids, attention_mask; missing: labels; .* labels \(B, L\)"),
        ("pretrain", lambda b: [b["input_ids"], b["labels"]], r"found a list of 2 \(tensor\); PretrainTrainer takes"),
        ("sft", lambda b: (b,), r"found a tuple of 1 \(dict\)"),
        ("sft", lambda b: None, "found None"),
        ("sft", lambda b: b["input_ids"], r"found a tensor \(4, \d+\) of torch.int64"),
        ("grpo", lambda b: {"input_ids": b["prompts"]}, "found input_ids; missing: prompts"),
        ("grpo", having(prompts=lambda b: ["one", "two"]), "prompts is a list of 2 .text., which must be tokenised"),
        ("grpo", having(group_ids=lambda b: b["group_ids"].float()), "group_ids is torch.float32, allowed torch.int64"),
        ("ppo", having(rewards=lambda b: b["rewards"][:, None]), r"rewards is \(4, 1\), allowed \(B\)"),
        ("ppo", having(old_logprobs=lambda b: b["old_logprobs"].exp()), "old_logprobs holds .*natural logarithms"),
        ("online_dpo", having(answers=lambda b: ["1"]), r"answers is \(1\), prompts is \(4, "),
        ("dpo", having(chosen_input_ids=lambda b: b["chosen_input_ids"][:2]), r"chosen_input_ids is \(2, \d\), prompt"),
        ("dpo", having(ref_chosen_logprobs=lambda b: -b["chosen_attention_mask"].float()), "allowed both, or neither"),
        ("dpo", having(labels=lambda b: 1), "found labels, which DPOTrainer does not read"),
        ("sft", having(input_ids=lambda b: b["input_ids"].float()), "input_ids is torch.float32, allowed torch.int64"),
        ("sft", having(input_ids=lambda b: b["input_ids"] + 17), r"input_ids \[0, 0\] is \d+; allowed 0 to 16"),
        ("sft", having(labels=lambda b: b["labels"] + 40), r"labels \[0, .\] is -?\d+; allowed 0 to 16"),
        ("sft", having(labels=lambda b: b["labels"][:, 1:]), r"labels is \(4, .\), input_ids is \(4, "),
        ("sft", having(labels=lambda b: b["input_ids"]), "where attention_mask is 0: padding would be learned"),
        ("sft", having(attention_mask=lambda b: b["attention_mask"] * 2), "attention_mask holds 2; allowed 1 at real"),
        ("sft", having(input_ids=lambda b: b["input_ids"][0]), r"input_ids is \(\d+\), allowed \(B, L\); one row"),
        ("sft", having(input_ids=lambda b: [[1, 2], [3]]), "rows of 1, 2 tokens: pad them to one length"),
        ("sft", having(input_ids=lambda b: list(b["input_ids"].T)), "rows and places exchanged; collate to tensors"),
        ("sft", having(loss_mask=lambda b: b["labels"]), "found loss_mask, which SFTTrainer does not read"),
        ("sft", lambda b: {**without("attention_mask")(b), "attention_masks": 1}, "did you mean attention_mask"),
        ("sft", having(position_ids=lambda b: b["labels"] * 0), "position_ids are not those of attention_mask"),
        ("sft", lambda b: {k: v.repeat(1, 40) for k, v in b.items()}, "tokens, and the model has positions for 128"),
    ],
)  # fmt: skip
def test_a_batch_of_another_form_is_refused_by_name(learn, name, change, message):
    with pytest.raises(DataError, match=f"^batch 1: .*{message}") as found:
        learn(name, change)
    assert "\n" not in str(found.value)


def test_labels_that_are_shifted_already_are_refused(torch, learn):
    ids = torch.arange(1, 11)[None].repeat(2, 1)
    with pytest.raises(DataError, match="labels are input_ids shifted by one place"):
        learn("sft", lambda _: {"input_ids": ids[:, :-1], "labels": ids[:, 1:]})


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo"])
@pytest.mark.parametrize(
    "convert",
    [lambda v: v.tolist(), lambda v: v.numpy(), lambda v: v if v.is_floating_point() else v.int()],
    ids=["lists", "numpy", "int32"],
)
def test_what_is_certain_is_converted_to_the_same_numbers(torch, learn, name, convert):
    expected = flat(torch, learn(name))
    found = learn(name, lambda batch: {key: convert(value) for key, value in batch.items()})
    assert torch.equal(flat(torch, found), expected)


def test_a_float_mask_and_a_batch_encoding_are_taken(torch, learn):
    import transformers

    expected = flat(torch, learn("sft"))
    masked = learn("sft", having(attention_mask=lambda b: b["attention_mask"].float()))
    encoded = learn("sft", lambda batch: transformers.BatchEncoding(batch))
    assert torch.equal(flat(torch, masked), expected)
    assert torch.equal(flat(torch, encoded), expected)


def test_padding_may_hold_any_id(torch, learn):
    expected = flat(torch, learn("sft"))
    found = learn("sft", having(input_ids=lambda b: b["input_ids"].masked_fill(~b["attention_mask"].bool(), -7)))
    assert torch.equal(flat(torch, found), expected)


def test_what_nothing_reads_is_left_out_and_named_once(learn):
    found = learn("sft", having(source=lambda b: ["a", "b", "c", "d"], number=lambda b: 3))
    assert [text for text in found.warnings if "nothing reads" in text] == [
        "step 1: batches have keys that nothing reads: source, number"
    ]


def test_a_batch_of_val_loader_is_named_as_such(learn, collate, make_rows):
    good, bad = collate("sft", make_rows(2)), {"input_ids": np.ones((2, 3), np.int64)}
    with pytest.raises(DataError, match=r"^val_loader's batch 2: found input_ids; missing: labels"):
        learn("sft", val_loader=[good, bad])


@pytest.mark.parametrize("name", trainer_names())
def test_every_trainer_declares_its_batches_and_says_so(name, collate, make_rows):
    batch, trainer = get_settings_class(name).batch, get_trainer_class(name)
    assert batch is not None
    assert set(collate(name, make_rows(2))) <= set(batch.names)
    assert trainer.__doc__.endswith(f"\n\n{batch.described}\n")
    assert f"`{name}`" in table({name: batch})


def test_an_own_trainer_adds_keys_to_the_format(torch, small_llama, collate, make_rows):
    from workbench.trainer import SFTTrainer

    class WeightedSettings(SFTTrainer.settings_class):
        batch = ROWS.and_also(BatchField("weights", "B", "numbers", "of each row"))

    class WeightedTrainer(SFTTrainer):
        settings_class = WeightedSettings

        def _forward(self, batch):
            seen.append(batch["weights"].tolist())
            return super()._forward(batch)

    seen = []
    batch = collate("sft", make_rows(3))
    with pytest.raises(DataError, match="missing: weights; WeightedTrainer takes"):
        WeightedTrainer(small_llama(), None, [batch], settings=SETTINGS).train()
    WeightedTrainer(small_llama(), None, [batch | {"weights": [1, 2, 3]}], settings=SETTINGS).train()
    assert seen[0] == [1.0, 2.0, 3.0]
