"""What numbers depend on of settings: a field says itself that none does."""

from __future__ import annotations

from typing import Annotated

import pytest

from workbench.config import Free, Settings, fingerprint
from workbench.errors import DefinitionError
from workbench.rewards.settings import RewardSettings
from workbench.trainer.grpo_settings import GRPOSettings
from workbench.trainer.settings import Budget, Spikes, TrainerSettings


class Inner(Settings):
    rate: float = 1.0
    workers: Annotated[int | None, Free] = 2


class Outer(Settings):
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    every: Annotated[int, Free] = 10


def test_settings_with_other_values_are_checked_as_a_whole():
    settings = TrainerSettings(learning_rate=0.5)
    revised = settings.revised(seed=3)
    assert (revised.learning_rate, revised.seed, revised.model_fields_set) == (0.5, 3, {"learning_rate", "seed"})
    with pytest.raises(DefinitionError, match=r"^seed: .* greater than or equal to 0$"):
        settings.revised(seed=-1)
    with pytest.raises(DefinitionError, match="rollback returns to a regular checkpoint; set checkpoint_every"):
        settings.revised(non_finite="rollback")


def test_free_fields_are_left_out_wherever_they_stand():
    decisive = Outer(several=(Inner(), Inner(rate=2.0)), every=3).decisive()
    assert decisive == {"inner": {"rate": 1.0}, "several": [{"rate": 1.0}, {"rate": 2.0}]}
    assert fingerprint(decisive) == fingerprint(Outer(several=(Inner(workers=5), Inner(rate=2.0))).decisive())


def test_how_a_reward_is_computed_is_free_within_the_settings_of_its_trainer():
    reward = RewardSettings(file="own.py", workers=4, timeout_seconds=2.0, weight=0.5)
    assert GRPOSettings(rewards=(reward,)).decisive()["rewards"] == [{"file": "own.py", "weight": 0.5}]


def test_the_cadence_of_checkpoints_counts_where_a_step_in_trouble_returns_to_one():
    assert "checkpoint_every" in TrainerSettings(checkpoint_every=5).free_fields()
    for trouble in ({"non_finite": "rollback"}, {"spikes": Spikes(action="rollback")}):
        assert "checkpoint_every" not in TrainerSettings(checkpoint_every=5, **trouble).free_fields()


def test_what_is_computed_again_counts_where_operations_end_the_run():
    charged = {"gradient_checkpointing", "micro_batch_rows"}
    assert charged <= TrainerSettings(budget=Budget(tokens=9)).free_fields()
    assert not charged & TrainerSettings(budget=Budget(flops=9.0)).free_fields()


def test_minus_zero_has_the_fingerprint_of_zero():
    assert fingerprint([-0.0]) == fingerprint([0.0])
