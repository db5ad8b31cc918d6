"""Terms of different units are each divided by the units of the whole step; mistakes of a method's author are told in
one line that names the file, the hook and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.nn.functional import logsigmoid

from workbench.errors import DefinitionError, NonFiniteError
from workbench.tracking.values import Mean
from workbench.trainer import BaseTrainer, get_trainer_class
from workbench.trainer.batch_format import PAIRS
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.pairs import completion_logprobs
from workbench.trainer.settings import TrainerSettings


class OddsSettings(TrainerSettings):
    batch = PAIRS


class Odds(BaseTrainer):
    """Cross-entropy over the chosen tokens, and an odds ratio over pairs: two units, and no word of how many."""

    settings_class: ClassVar[Any] = OddsSettings

    def _prepare_batch(self, batch: Any) -> Any:
        return self._checked(batch)

    def _forward(self, batch: Any) -> Any:
        return completion_logprobs(self.model, batch)[0]

    def _compute_loss(self, outputs: Any, batch: Any) -> Any:
        chosen, rejected = outputs.chunk(2)
        terms = {
            "nll": LossTerm(-chosen.sum(), float(batch["chosen_attention_mask"].sum())),
            "odds": LossTerm(-logsigmoid(chosen - rejected).sum(), len(chosen), weight=0.5),
        }
        return LossResult(terms, {"margin": Mean((chosen - rejected).detach().sum().double(), len(chosen))})


class Counted(Odds):
    def _count_units(self, batch: Any) -> Any:
        return {"nll": float(batch["chosen_attention_mask"].sum()), "odds": len(batch["chosen_input_ids"])}


@pytest.fixture
def step_of(small_llama, collate, make_rows):
    """step_of(class, rows=slice(None), **settings) -> (gradient, row) of one step on five pairs, or on some of them."""

    def make(cls, rows=slice(None), **settings):
        chosen = {"steps": 1, "device": "cpu", "precision": "float32", "max_grad_norm": None} | settings
        trainer = cls(small_llama(), None, [collate("dpo", make_rows(5)[rows])], settings=chosen)
        gradients = []
        trainer.optimizer.register_step_pre_hook(
            lambda *_: gradients.append(torch.cat([p.grad.flatten() for p in trainer.parameters]))
        )
        row = trainer.train()
        return gradients[0], row

    return make


def test_a_step_of_one_micro_batch_needs_no_count_beforehand(step_of):
    expected, counted = step_of(Counted, micro_batch_rows=2)
    gradient, row = step_of(Odds)
    assert ((gradient - expected).norm() / expected.norm()).item() <= 1e-5
    assert row["loss"] == pytest.approx(row["loss/nll"] + 0.5 * row["loss/odds"])
    assert row["loss/nll"] == pytest.approx(counted["loss/nll"])


def test_units_are_those_of_all_processes(step_of, in_processes):
    expected, row = step_of(Counted)
    found = in_processes(2, lambda rank: step_of(Odds, slice(rank, None, 2)))
    for gradient, own in found:
        assert ((gradient - expected).norm() / expected.norm()).item() <= 1e-5
        assert own["loss"] == pytest.approx(row["loss"])


@pytest.mark.parametrize("rows", [None, 2])
def test_a_step_without_a_unit_that_nothing_foresaw_is_not_learned_from(step_of, rows):
    class Unitless(Odds):
        def _compute_loss(self, outputs, batch):
            return LossResult({"nll": LossTerm(0.0 * outputs.sum(), 0)})

    with pytest.raises(NonFiniteError, match="step 1: loss is nan"):
        step_of(Unitless, micro_batch_rows=rows)


def test_several_micro_batches_need_a_count_and_the_message_says_which(step_of):
    with pytest.raises(DefinitionError) as told:
        step_of(Odds, micro_batch_rows=2)
    assert f"{Path(__file__).name}: Odds: the loss has terms of different units (nll " in str(told.value)
    assert "define _count_units(self, batch)" in str(told.value)


MISTAKES = [
    (LossResult({}), "a LossResult without terms; allowed at least one"),
    (LossResult({"a": 1.0}), r"the term a as a float; allowed LossTerm\(loss_sum, num_units\)"),
    (LossResult({"a": LossTerm(torch.ones(3), 3)}), r"a loss_sum of a that is a Tensor of shape \(3,\)"),
    (
        LossResult({"a": LossTerm(torch.ones(()), 3)}, {"m": 1.0}),
        r"the metric m as a float; allowed Mean\(sum, count\)",
    ),
    (None, "a NoneType; allowed a LossResult, or a scalar tensor"),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_loss_that_the_loop_cannot_take_is_told_with_its_file(step_of, given, message):
    class Wrong(Odds):
        def _compute_loss(self, outputs, batch):
            return given

    with pytest.raises(DefinitionError, match=f"test_units.py: Wrong: _compute_loss gave {message}"):
        step_of(Wrong)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"nll": 3.0}, "_compute_loss gave the term odds, and _count_units counts nll; count all"),
        (7, "_count_units gave 7; allowed a number by each term's name"),
    ],
)
def test_a_count_that_does_not_fit_the_terms_is_told(step_of, units, message):
    class Wrong(Odds):
        def _count_units(self, batch):
            return units

    with pytest.raises(DefinitionError, match=message):
        step_of(Wrong)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("_set_up_model", r"test_units\.py: Wrong\._set_up_model gave None; allowed the module to train"),
        ("_make_update_batches", r"Wrong: _make_update_batches gave a NoneType; allowed a list of batches"),
        ("_check_gradient", "Wrong: _check_gradient gave None; allowed the row"),
    ],
)
def test_a_hook_without_a_return_is_told(step_of, hook, message):
    wrong = type("Wrong", (Odds,), {hook: lambda *given: None, "__module__": __name__})
    with pytest.raises(DefinitionError, match=message):
        step_of(wrong)


def test_own_state_that_no_checkpoint_can_hold_is_told(small_llama, collate, make_rows, tmp_path):
    class Wrong(Odds):
        def _get_extra_checkpoint_state(self):
            return {"seen": {1, 2}}

    trainer = Wrong(small_llama(), None, [collate("dpo", make_rows(2))], settings={"steps": 1}, output_dir=tmp_path)
    with pytest.raises(
        DefinitionError, match=r"Wrong: _get_extra_checkpoint_state gave 'seen': a set; allowed tensors"
    ):
        trainer.train()


def test_a_trainer_file_that_lacks_a_method_is_told(monkeypatch):
    class DPOTrainer(BaseTrainer):
        pass

    monkeypatch.setattr("workbench.trainer.dpo_trainer.DPOTrainer", DPOTrainer)
    lacking = r"dpo_trainer\.py: DpoTrainer lacks _compute_loss, _forward, _prepare_batch"
    with pytest.raises(DefinitionError, match=lacking):
        get_trainer_class("dpo")
