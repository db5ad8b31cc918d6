"""Learning-rate factors at named steps, by hand."""

from __future__ import annotations

import pytest

from workbench.trainer.loop.schedule import learning_rate_factor
from workbench.trainer.settings import TrainerSettings


def factors(num_steps, steps, **settings):
    return [learning_rate_factor(step, num_steps, TrainerSettings(**settings)) for step in steps]


def test_warm_up_climbs_to_one_at_its_last_step():
    assert factors(10, range(5), warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_constant_stays():
    assert factors(10, [0, 5, 10]) == [1.0, 1.0, 1.0]


def test_linear_falls_to_its_floor_at_the_end():
    assert factors(10, [0, 5, 10], schedule="linear") == [1.0, 0.5, 0.0]
    assert factors(12, [2, 7, 12], schedule="linear", warmup_steps=2, min_learning_rate_ratio=0.1) == pytest.approx(
        [1.0, 0.55, 0.1]
    )


def test_cosine_is_half_way_at_the_middle():
    # 0.5 (1 + cos(pi / 4)) = 0.853553 at a quarter
    assert factors(8, [0, 2, 4, 8], schedule="cosine") == pytest.approx([1.0, 0.853553390593, 0.5, 0.0])


def test_warmup_stable_decay_is_flat_until_its_last_share():
    found = factors(10, [0, 1, 7, 8, 9, 10], schedule="warmup_stable_decay", warmup_steps=2, decay_fraction=0.2)
    assert found == [0.5, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_the_first_update_uses_the_first_factor_and_steps_are_recorded(sft, tmp_path):
    from workbench.tracking.reader import read_rows

    sft(learning_rate=0.1, steps=3, schedule="linear", warmup_steps=2, arguments={"output_dir": tmp_path}).train()
    rates = [row["learning_rate"] for row in read_rows(tmp_path / "metrics.jsonl")[1:]]
    assert rates == pytest.approx([0.05, 0.1, 0.1])
