"""Rows of several sources: every trainer tells them apart, and weighs their losses, however a step is cut."""

from __future__ import annotations

import pytest

from tests.trainers import ONLINE, TRAINERS, WHOLE, batch_of, make_trainer
from workbench.errors import DefinitionError, MethodError
from workbench.trainer import SFTTrainer
from workbench.trainer.loop.sources import Sources
from workbench.trainer.loss import LossResult, LossTerm

SOURCES = [0, 1, 1, 0]


@pytest.fixture
def step_of(torch, small_llama, tmp_path):
    """step_of(name, weights=None, sources=SOURCES, **settings) -> the row of a step on four rows of two sources, and
    its gradient."""

    def step(name, weights=None, sources=SOURCES, **settings):
        batch = batch_of(WHOLE[name], 4) | ({"source_ids": torch.tensor(sources)} if sources else {})
        batch |= {"loss_weight": torch.tensor(weights)} if weights else {}
        once = {"passes": 1, "minibatches": 1} if name in ONLINE else {}
        trainer = make_trainer(
            name,
            None,
            make_model=lambda seed=0: small_llama("float64", seed=seed),
            batches=[batch],
            steps=1,
            **({"max_grad_norm": None, "learning_rate": 0.0} | once | settings),
        )
        gradients = []
        trainer.optimizer.register_step_pre_hook(
            lambda *_: gradients.append(torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None]))
        )
        trainer.train_step()
        return trainer.state.pending_row, gradients[0]

    return step


@pytest.mark.parametrize("name", TRAINERS)
def test_each_source_has_its_loss_however_a_step_is_cut(torch, name, step_of):
    (whole, gradient), (cut, _), (alone, plain) = (
        step_of(name, **how) for how in ({}, {"micro_batch_rows": 1}, {"sources": None})
    )
    assert {"loss/0", "loss/1", "tokens/0", "tokens/1"} <= whole.keys()
    sides = alone.keys() & {"rewards/chosen", "rewards/rejected"}
    assert all(f"{side}/0" in whole or f"{side}/1" in whole for side in sides)
    # While policy and reference are the same model, rounding alone decides which side of a pair wins.
    told = {key: value for key, value in whole.items() if "accuracies" not in key}
    named = {key: value for key, value in told.items() if key.endswith(("/0", "/1"))}
    assert cut == pytest.approx(cut | named, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradient, plain, rtol=0, atol=0)
    shared = {key: value for key, value in alone.items() if not key.startswith("time/")}
    assert whole == whole | shared  # what is recorded of all rows is what it was


@pytest.mark.parametrize("name", TRAINERS)
def test_a_loss_weight_multiplies_the_losses_of_its_rows(torch, name, step_of):
    (both, sum_of), (_, first), (_, second) = (
        step_of(name, weights) for weights in ([2.0, 3.0, 3.0, 2.0], [1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0])
    )
    torch.testing.assert_close(sum_of, 2 * first + 3 * second, rtol=1e-9, atol=1e-12)
    assert both["loss/0"] == pytest.approx(step_of(name)[0]["loss/0"], rel=1e-9)  # recorded as it is without weights


def test_the_loss_of_a_source_is_the_mean_over_its_own_units(torch, step_of):
    def of(rows):
        batch = batch_of(WHOLE["sft"], 4)
        return {key: value[rows] for key, value in batch.items()}

    whole, _ = step_of("sft")
    for source in (0, 1):
        rows = [row for row, own in enumerate(SOURCES) if own == source]
        units = int((of(rows)["labels"][:, 1:] != -100).sum())
        assert whole[f"tokens/{source}"] == int(of(rows)["attention_mask"].sum())
        others = [row for row, own in enumerate(SOURCES) if own != source]
        rest = int((of(others)["labels"][:, 1:] != -100).sum())
        shared = whole[f"loss/{source}"] * units + whole[f"loss/{1 - source}"] * rest
        assert whole["loss"] == pytest.approx(shared / (units + rest), rel=1e-9)


@pytest.mark.parametrize("name", ONLINE)
def test_rewards_are_told_by_source(name, step_of):
    row, _ = step_of(name)
    sizes = [row["generated_tokens/0"], row["generated_tokens/1"]]
    assert min(sizes) > 0
    assert row["reward"] == pytest.approx((row["reward/0"] + row["reward/1"]) / 2)  # as many completions of each


def test_losses_of_rows_that_are_not_told_cannot_be_weighted(torch, small_llama):
    class Own(SFTTrainer):
        def _compute_loss(self, outputs, batch):
            return LossResult({"cross_entropy": LossTerm(outputs.hidden.sum(), 1.0)})

    batch = batch_of(WHOLE["sft"], 2) | {"source_ids": torch.tensor([0, 1]), "loss_weight": torch.tensor([1.0, 2.0])}
    settings = {"steps": 1, "device": "cpu", "precision": "float32"}
    with pytest.raises(MethodError, match="a source has a loss_weight, and _compute_loss does not tell the rows of cr"):
        Own(small_llama(), None, [batch], settings=settings).train()


def test_a_source_named_as_a_term_is_refused(torch):
    sources = Sources(None)
    ones = torch.ones(1)
    terms = {"0": LossTerm(ones.sum(), 1.0), "kl": LossTerm(ones.sum(), 1.0)}
    sources.tell_apart(LossResult(terms), {"source_ids": torch.tensor([0])}, ones)
    with pytest.raises(DefinitionError, match="a source is named 0, and so is a term of the loss"):
        sources.complete({"loss/0": 1.0, "loss/kl": 1.0, "loss/kl/0": 1.0}, 1)
