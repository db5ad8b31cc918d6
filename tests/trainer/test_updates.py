"""Updates as a value: what is taken with them, what is left after a step, and what goes on."""

from __future__ import annotations

import pytest

from workbench.errors import RewardError
from workbench.trainer.loop.updates import Updates
from workbench.trainer.records.costs import Costs


def test_a_bare_iterable_is_updates_with_nothing_else_to_say():
    made = Updates.of(batch for batch in ({"a": 1}, {"a": 2}))
    assert made == Updates([{"a": 1}, {"a": 2}])
    assert Updates.of(made) == made


def test_after_a_step_the_other_batches_and_the_state_are_left():
    made = Updates(
        [{"a": 1}, {"a": 2}], {"reward": 0.5}, [{"completion": "x"}], Costs(generated_tokens=3), {"beta": 2.0}
    )
    assert made.rest() == Updates([{"a": 2}], state={"beta": 2.0})
    assert made.rest(is_enough=True) == Updates([], state={"beta": 2.0})


def test_a_methods_state_goes_on_where_new_updates_do_not_change_it():
    before = Updates(state={"beta": 2.0, "seen": 1})
    assert Updates([{"a": 1}], state={"seen": 2}).following(before).state == {"beta": 2.0, "seen": 2}


def test_a_methods_state_moves_when_updates_are_taken_and_by_nothing_else(rollout_trainer, small_llama, prompt_batch):
    numbers = iter([0.1, 0.2])
    trainer = rollout_trainer(
        "ppo",
        beta=0.1,
        kl_target=1e-3,
        kl_horizon=100.0,
        passes=1,
        reward_fn=lambda completions: [next(numbers)] * len(completions),
        arguments={"ref_model": small_llama(seed=1), "val_loader": [prompt_batch(3, 7)]},
    )
    trainer.train_step()
    taken = trainer.updates
    assert taken.state["beta"] == pytest.approx(0.1 * (1 + 0.2 * 12 / 100))
    trainer.evaluate()
    assert trainer.updates is taken
    with pytest.raises(RewardError):
        trainer.train_step()  # there is no third number
    assert trainer.updates is taken
