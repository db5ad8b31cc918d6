"""SIGKILL at a random time, for every trainer: the same command goes on to the same bits, whatever was half done.

FAULT_TRIES: kills of each variant (`make faults` takes many, CI a few).
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time

import pytest

from tests.contracts.variants import VARIANTS
from workbench.tracking.reader import read_rows
from workbench.trainer.registry import trainer_names

TRIES = int(os.environ.get("FAULT_TRIES", "2"))
STEPS = 6
EVERY = {"steps": STEPS, "checkpoint_every": 2, "evaluate_every": 3}
pytestmark = [pytest.mark.slow, pytest.mark.multi]


@pytest.fixture
def train(make_variant):
    """train(variant, folder) -> the outcome of a run that resumes what is there and ends."""

    def run(variant, folder):
        trainer = make_variant(variant, folder, **EVERY)
        trainer.resume()
        trainer.train()
        return outcome(trainer, folder)

    return run


def outcome(trainer, folder):
    rows = read_rows(folder / "metrics.jsonl")
    digest = hashlib.sha256()
    for parameter in trainer.unwrapped_model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return {
        "rows": [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows],
        "completions": read_rows(folder / "completions.jsonl"),
        "weights": digest.hexdigest(),
        "costs": trainer.costs.flops,
    }


def kill_after(seconds):
    """A thread that kills this process."""

    def kill():
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_at_random_times_nothing_is_lost(variant, train, in_processes, tmp_path, record_property):
    def timed(_):
        started = time.monotonic()
        found = train(variant, tmp_path / "whole")
        return found, time.monotonic() - started

    [(whole, seconds)] = in_processes(1, timed)
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


def test_every_trainer_is_among_the_variants():
    assert {name for name, _ in VARIANTS.values()} == set(trainer_names())
