"""Warnings of a run whose signal is dead, solved, collapsed or gamed, by rows of metrics."""

from __future__ import annotations

import pytest

from workbench.errors import DivergenceError
from workbench.trainer.online.signals import SignalWatch

DEAD = {"step": 1, "reward": 0.0, "reward_std": 0.0, "completions/mean_length": 5.0}
LIVE = {"step": 1, "reward": 0.5, "reward_std": 0.2, "completions/mean_length": 5.0, "entropy": 2.0}


def test_a_dead_signal_is_warned_of_at_once_and_stops_after_its_patience():
    watch = SignalWatch(3)
    assert [len(watch.observe(DEAD | {"step": step}, 1.0)) for step in (1, 2)] == [1, 0]
    with pytest.raises(DivergenceError, match=r"step 3: dead signal: .* for 3 rollouts") as stopped:
        watch.observe(DEAD | {"step": 3}, 1.0)
    assert stopped.value.exit_code == 6


def test_a_signal_that_comes_back_starts_the_count_again():
    watch = SignalWatch(2)
    for _ in range(3):
        assert len(watch.observe(DEAD, None)) == 1
        assert watch.observe(LIVE, None) == []


def test_patience_zero_never_stops():
    watch = SignalWatch(0)
    assert sum(len(watch.observe(DEAD, None)) for _ in range(100)) == 1


@pytest.mark.parametrize("maximum", [1.0, 0.7, 1.1, 0.7 + 0.2 + 0.1])
def test_a_solved_rollout_is_no_dead_signal_and_is_said_once(maximum):
    import statistics

    watch = SignalWatch(2)
    for number in (3, 5, 6, 7, 11, 13, 48, 96):
        reward = statistics.fmean([maximum] * number)
        found = watch.observe(DEAD | {"reward": reward}, maximum)
        assert [warning[:6] for warning in found] == (["solved"] if number == 3 else [])


def test_rows_between_rollouts_count_for_nothing():
    watch = SignalWatch(2)
    watch.observe(DEAD, None)
    assert watch.observe({"step": 2, "loss": 0.0}, None) == []
    with pytest.raises(DivergenceError):
        watch.observe(DEAD, None)


def test_length_collapse_is_warned_of_once():
    watch = SignalWatch(0)
    found = [watch.observe(LIVE | {"completions/mean_length": 20.0 if n < 6 else 1.0}, None) for n in range(30)]
    said = [warning for warnings in found for warning in warnings]
    assert len(said) == 1
    assert said[0].startswith("length collapse: completions have")


def test_entropy_collapse_is_warned_of_unless_the_reward_is_nearly_at_its_largest():
    rows = [LIVE | {"entropy": 2.0 if n < 6 else 0.01} for n in range(40)]
    watch = SignalWatch(0)
    said = [warning for row in rows for warning in watch.observe(row, 1.0)]
    assert len(said) == 1
    assert said[0].startswith("entropy collapse")
    solved = SignalWatch(0)
    assert [w for row in rows for w in solved.observe(row | {"reward": 0.99}, 1.0)] == []


def test_over_optimisation_is_reward_that_rises_while_the_held_out_metric_falls():
    def said(rewards, held_out):
        watch = SignalWatch(0)
        return [
            warning
            for reward, metric in zip(rewards, held_out, strict=True)
            for warning in watch.observe(LIVE | {"reward": reward, "eval/exact_match_greedy": metric}, 1.0)
        ]

    rising, falling = [0.1, 0.3, 0.5, 0.7], [0.9, 0.8, 0.7, 0.6]
    (warning,) = said(rising, falling)
    assert warning.startswith("over-optimisation: over 3 evaluations")
    assert said(rising, rising) == []
    assert said(falling, falling) == []
    assert said(rising, [0.9, 0.8, 0.85, 0.6]) == []


def test_the_watch_goes_on_from_its_state():
    watch, resumed = SignalWatch(3), SignalWatch(3)
    watch.observe(DEAD, None)
    resumed.load_state_dict(watch.state_dict())
    assert resumed.observe(DEAD, None) == []
    with pytest.raises(DivergenceError):
        resumed.observe(DEAD, None)


def test_a_constant_reward_stops_a_run_and_a_solved_one_goes_on(rollout_trainer):
    from workbench.rewards.reward import Reward, RewardSet

    def constant(samples):
        return [1.0] * len(samples)

    trainer = rollout_trainer(reward_fn=RewardSet([Reward("flat", constant)]), dead_signal_patience=2, steps=5)
    with pytest.raises(DivergenceError, match="dead signal") as stopped:
        trainer.train()
    assert (stopped.value.exit_code, trainer.step) == (6, 2)
    assert [warning.split(":")[:2] for warning in trainer.warnings] == [["step 1", " dead signal"]]
    solved = rollout_trainer(
        reward_fn=RewardSet([Reward("flat", constant, maximum=1.0)]), dead_signal_patience=2, steps=5
    )
    assert solved.train()["step"] == 5
    assert [warning.split(":")[:2] for warning in solved.warnings] == [["step 1", " solved"]]
