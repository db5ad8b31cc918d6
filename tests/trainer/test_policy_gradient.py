"""What a further online method has to say: advantages, and a loss where it is not PPO's. The rest is the package's."""

from __future__ import annotations

import signal
from typing import ClassVar

import pytest

from tests.batches import Letters, prompt_batch, share_of_late_letters
from workbench.errors import Interrupted
from workbench.objectives.advantages import rloo
from workbench.trainer import GRPOTrainer
from workbench.trainer.online.lesson import Lesson
from workbench.trainer.online.policy_gradient import PolicyGradientTrainer
from workbench.trainer.online.settings import RolloutSettings


class LeaveOneOut(PolicyGradientTrainer):
    """REINFORCE with a baseline of the group's other completions, in as few lines as it takes."""

    settings_class: ClassVar[type[RolloutSettings]] = RolloutSettings
    _work = PolicyGradientTrainer._work

    def _learn(self, rollout, attempt):
        advantages = self._over_all(rloo, rollout.rewards, rollout, attempt)
        rollout = self._with_old_logprobs(rollout)
        return Lesson(rollout, advantages, {"advantages": advantages, "old_logprobs": rollout.old_logprobs})


@pytest.fixture
def made(small_llama):
    def make(trainer_class, **more):
        settings = {"steps": 4, "passes": 2, "batch_prompts": 3, "group_size": 4, "max_new_tokens": 6}
        settings |= {"learning_rate": 1e-3, "precision": "float32", "device": "cpu", "checkpoint_seconds": 0.0}
        given = {"tokenizer": Letters(), "reward_fn": share_of_late_letters, **more.pop("arguments", {})}
        batches = [prompt_batch(3, seed) for seed in range(2)]
        return trainer_class(small_llama(), None, batches, settings=settings | more, **given)

    return make


def weights_of(trainer, torch):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.parameters])


def test_a_method_of_a_few_lines_learns_as_the_option_of_the_same_name_does(torch, made):
    own, option = made(LeaveOneOut), made(GRPOTrainer, advantage="rloo", loss="dapo")
    own.train(), option.train()
    torch.testing.assert_close(weights_of(own, torch), weights_of(option, torch), rtol=1e-5, atol=1e-6)


def test_a_method_of_a_few_lines_resumes_to_the_same_bits_within_a_rollout(torch, made, tmp_path):
    whole = made(LeaveOneOut)
    whole.train()
    first = made(LeaveOneOut, arguments={"output_dir": tmp_path})
    first.optimizer.register_step_post_hook(lambda *_: first.step == 2 and signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        first.train()
    again = made(LeaveOneOut, arguments={"output_dir": tmp_path})
    assert again.resume()
    assert (again.step, len(again.updates.batches)) == (3, 1)
    again.train()
    assert torch.equal(weights_of(again, torch), weights_of(whole, torch))
