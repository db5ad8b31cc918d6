"""SIGKILL at a random time, for every trainer: the same command goes on to the same bits, whatever was half done.

FAULT_TRIES: kills of each variant (`make faults` takes many, CI a few).
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from tests.trainers import EVERY_TRAINER, outcome

TRIES = int(os.environ.get("FAULT_TRIES", "2"))
STEPS = 6
EVERY = {"steps": STEPS, "checkpoint_every": 2, "evaluate_every": 3}
pytestmark = [pytest.mark.slow, pytest.mark.multi]


@pytest.fixture
def train(make_trainer):
    """train(variant, folder) -> the outcome of a run that resumes what is there and ends."""

    def run(variant, folder):
        trainer = make_trainer(variant, folder, **EVERY)
        trainer.resume()
        trainer.train()
        return outcome(trainer, folder)

    return run


def kill_after(seconds):
    """A thread that kills this process."""

    def kill():
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


@pytest.mark.parametrize("variant", EVERY_TRAINER)
def test_killed_at_random_times_nothing_is_lost(variant, train, in_processes, tmp_path, record_property):
    train(variant, tmp_path / "warm")  # so that the processes forked from here are warm
    started = time.monotonic()
    whole = train(variant, tmp_path / "whole")
    seconds = time.monotonic() - started
    assert [row["step"] for row in whole["rows"]] == list(range(STEPS + 1))
    rng, killed = random.Random(variant), 0
    while killed < TRIES:
        folder = tmp_path / f"run{killed}"
        delay = rng.uniform(0.0, seconds)

        def victim(_, folder=folder, delay=delay):
            kill_after(delay)
            return train(variant, folder)

        [ended] = in_processes(1, victim)
        if ended != -signal.SIGKILL:
            assert ended == whole
            continue  # it was quicker than its killer
        killed += 1
        [again] = in_processes(1, lambda _, folder=folder: train(variant, folder))
        assert again == whole, f"killed after {delay:.3f} s of {seconds:.3f}"
    record_property("tries", killed)
