"""The learning-rate range test: its rates, its end, its numbers by hand."""

from __future__ import annotations

import math

import pytest

from workbench.tracking.reader import read_rows
from workbench.trainer.loop.range_test import RangeTest
from workbench.trainer.loop.schedule import learning_rate_factor
from workbench.trainer.settings import TrainerSettings

RISING = {"schedule": "range_test", "min_learning_rate_ratio": 1e-4}


def test_the_rate_rises_by_equal_factors_from_the_floor_to_the_peak():
    settings = TrainerSettings(**RISING)
    found = [learning_rate_factor(step, 5, settings) for step in range(5)]
    assert found == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


@pytest.mark.parametrize(
    "changed", [{"min_learning_rate_ratio": 0.0}, {"min_learning_rate_ratio": 1.0}, {"warmup_steps": 2}]
)
def test_a_test_without_a_range_is_refused(changed):
    with pytest.raises(ValueError, match="set min_learning_rate_ratio between 0 and 1"):
        TrainerSettings(**RISING | changed)


def follow(losses, num_steps, stop_ratio=4.0):
    test = RangeTest(num_steps, stop_ratio)
    return [test.observe(loss, 0.1) for loss in losses]


def test_the_smoothed_loss_ends_it_by_hand():
    # 0.05 of 60 steps is a span of 3, so half of each average is kept: 2; (0.5 + 9) / 0.75 ... is above 4 x 2 at 18.
    assert follow([2.0, 2.0], 60) == [None, None]
    smoothed = (0.25 * 2.0 + 0.5 * 11.0) / 0.75
    assert smoothed == 8.0
    assert follow([2.0, 11.0], 60) == [None, None]
    assert follow([2.0, 11.1], 60)[1] == (
        "range_test: the smoothed loss 8.067 exceeds 4 times its lowest, 2, at learning rate 0.1"
    )


def test_a_loss_below_zero_has_a_limit_too():
    assert follow([-2.0, 3.9], 20) == [None, None]
    assert follow([-2.0, 4.1], 20)[1].startswith("range_test: the smoothed loss 4.1 exceeds")


def test_a_loss_that_is_not_finite_ends_it():
    assert follow([math.nan], 20) == ["range_test: the loss is not finite at learning rate 0.1"]


def test_its_state_is_restored_exactly():
    first, second = RangeTest(60, 4.0), RangeTest(60, 4.0)
    second.load_state_dict(first.state_dict())
    assert second.state == first.state
    first.observe(2.0, 0.1)
    second.load_state_dict(first.state_dict())
    assert second.state == first.state


def test_a_run_ends_where_its_loss_leaves_and_keeps_its_model(torch, sft, tmp_path):
    trainer = sft(steps=60, learning_rate=1e3, arguments={"output_dir": tmp_path}, **RISING)
    row = trainer.train()
    assert trainer.stopped_by.startswith("range_test: the smoothed loss")
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(trainer.step + 1))
    assert 5 < trainer.step < 60
    assert row["learning_rate"] == pytest.approx(1e3 * 1e-4 ** (1 - (trainer.step - 1) / 59))
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_an_overflow_is_an_end_and_not_an_error(sft, tmp_path):
    class BadInTheSecond:
        step: int

        def _compute_loss(self, outputs, batch):
            result = super()._compute_loss(outputs, batch)
            if self.step == 1:
                result.terms["cross_entropy"].loss_sum.data.fill_(float("inf"))
            return result

    trainer = sft(folder=tmp_path, mixin=BadInTheSecond, steps=3, **RISING)
    trainer.train()
    assert (trainer.step, trainer.stopped_by[:35]) == (2, "range_test: the loss is not finite ")
