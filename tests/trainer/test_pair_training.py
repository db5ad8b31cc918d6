"""Pairs are learned from with or without a reference, as the settings say."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.batches import collate, make_rows
from workbench.trainer.batch_format import PAIRS
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.pair_training import PairTrainer
from workbench.trainer.pairs import completion_lengths, pair_logratios
from workbench.trainer.settings import TrainerSettings


class FreeSettings(TrainerSettings):
    """Mean log-probabilities apart by a margin (SimPO's form), without a reference."""

    batch = PAIRS


class TiedSettings(FreeSettings):
    """The same, with a reference in the batch."""

    needs_reference: ClassVar[bool] = True


class MeanMargin(PairTrainer):
    settings_class: ClassVar[type[TrainerSettings]] = FreeSettings

    def _compute_loss(self, outputs, batch):
        chosen, rejected = (
            sums / completion_lengths(batch, side)
            for sums, side in zip(outputs.chunk(2), ("chosen", "rejected"), strict=True)
        )
        return LossResult({"margin": LossTerm(-(chosen - rejected).sum(), float(len(chosen)))})


class TiedMargin(MeanMargin):
    settings_class: ClassVar[type[TrainerSettings]] = TiedSettings

    def _compute_loss(self, outputs, batch):
        pairs = pair_logratios(outputs, batch)
        return LossResult({"margin": LossTerm(-pairs.h.sum(), float(len(pairs.h)))})


class TwoPasses(TiedMargin):
    def _make_update_batches(self, batch):
        yield batch
        yield batch


@pytest.fixture
def trained(small_llama):
    def run(trainer_class):
        settings = {"steps": 3, "learning_rate": 0.01, "precision": "float32", "device": "cpu"}
        batches = [collate(FreeSettings.data_form, make_rows(4))]
        trainer = trainer_class(small_llama(), None, batches, settings=settings, val_loader=batches)
        return trainer, trainer.train()

    return run


def test_without_a_reference_none_is_kept_or_scored(trained):
    trainer, row = trained(MeanMargin)
    assert row["loss"] < 0.0
    assert trainer.reference.model is None
    assert trainer.costs.scored_tokens == 0


def test_with_one_it_is_the_frozen_start_and_charged(trained):
    trainer, row = trained(TiedMargin)
    assert row["loss"] < 0.0
    assert trainer.reference.model is not None
    assert trainer.costs.scored_tokens == trainer.costs.trained_tokens > 0


def test_a_method_that_learns_from_its_pairs_twice_has_their_reference_and_is_charged_once(trained):
    trainer, row = trained(TwoPasses)
    assert row["eval/loss"] < row["loss"] < 0.0
    assert 3 * trainer.costs.scored_tokens == 2 * trainer.costs.trained_tokens > 0
