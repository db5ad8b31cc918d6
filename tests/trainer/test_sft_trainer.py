"""Cross-entropy on the completion alone."""

from __future__ import annotations

import math

import pytest

from workbench.errors import DataError
from workbench.models.adapters import add_lora
from workbench.models.settings import LoraSettings


def test_the_loss_of_a_model_that_knows_nothing_is_the_log_of_its_vocabulary(torch, sft, small_llama):
    model = small_llama()
    with torch.no_grad():
        model.model.norm.weight.zero_()
    assert sft(model=model, steps=1).train()["loss"] == pytest.approx(math.log(17), rel=1e-6)


def test_the_loss_is_the_mean_over_labelled_tokens_by_hand(torch, sft, small_llama):
    ids = torch.tensor([[3, 5, 2, 7], [4, 6, 0, 0]])
    labels = torch.tensor([[-100, -100, 2, 7], [-100, 6, -100, -100]])
    logprobs = small_llama()(ids).logits.log_softmax(-1)
    expected = -(logprobs[0, 1, 2] + logprobs[0, 2, 7] + logprobs[1, 0, 6]) / 3
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    row = sft(steps=1, batches=[{"input_ids": ids, "labels": labels, "attention_mask": mask}]).train()
    assert row["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_rows_without_a_label_are_an_error_that_names_them(torch, sft):
    ids = torch.ones(3, 4, dtype=torch.long)
    labels = ids.clone()
    labels[1] = -100
    labels[2, 1:] = -100  # the first token is never predicted
    with pytest.raises(DataError, match=r"batch 1: rows \[1, 2\] have no label to learn from"):
        sft(batches=[{"input_ids": ids, "labels": labels}]).train()


def test_dropout_of_the_model_is_the_settings_and_that_of_an_adapter_its_own(torch, sft, small_llama):
    model = small_llama()
    add_lora(model, LoraSettings(rank=2, dropout=0.25), seed=0)
    model.add_module("own", torch.nn.Dropout(0.9))
    trainer = sft(model=model)
    rates = {module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.0, 0.25}
    assert trainer.model.training
    assert not sft(model=small_llama()).model.training
