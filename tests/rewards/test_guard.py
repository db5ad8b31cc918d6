"""A function in this process that changes what is around it: put back, or stopped by name."""

from __future__ import annotations

import os
import random
import signal
import sys

import numpy as np
import pytest

from workbench.errors import RewardError
from workbench.rewards.keywords import as_reward_set
from workbench.rewards.reward import Sample

SAMPLES = [Sample("p", "c", None, 1, True, 8)]


def around(torch):
    return (
        os.getcwd(), dict(os.environ), sys.stdin, sys.stdout, sys.stderr, random.getstate(),
        signal.getsignal(signal.SIGTERM), np.random.get_state()[1].tolist(),  # noqa: NPY002
        torch.get_rng_state().tolist(), torch.get_num_threads(),
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip


def test_what_a_function_changes_is_put_back(torch):
    def reward(completions):
        os.chdir("/")
        os.environ["NEW"] = "1"
        os.environ.pop("PATH")
        sys.stdout = sys.stderr = None
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        torch.set_num_threads(3)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return [1.0]

    before = around(torch)
    assert as_reward_set(reward).score(SAMPLES).total == [1.0]
    assert around(torch) == before


def test_a_descriptor_that_it_closes_stops_it_by_name_but_for_its_own(tmp_path):
    file = open(tmp_path / "record", "w")  # noqa: SIM115
    own = []

    def closes(completions):
        os.close(file.fileno())
        return [1.0]

    def opens_and_closes(completions):
        own.append(open(tmp_path / "own", "w")) if not own else own.pop().close()  # noqa: SIM115
        return [1.0]

    rewards = as_reward_set(opens_and_closes)
    assert rewards.score(SAMPLES).total == rewards.score(SAMPLES).total == [1.0]
    with pytest.raises(RewardError, match="reward closes: it closed descriptor"):
        as_reward_set(closes).score(SAMPLES)
    with pytest.raises(OSError, match="Bad file"):
        file.close()


def test_an_interrupt_that_no_signal_sent_is_a_failure_of_the_reward():
    def interrupted(completions):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with pytest.raises(RewardError, match="reward interrupted: raised KeyboardInterrupt"):
            as_reward_set(interrupted).score(SAMPLES)
    finally:
        signal.signal(signal.SIGINT, before)
