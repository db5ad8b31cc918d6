"""Records cut at any byte, or padded as a crash leaves them: a resume leaves no gap, no duplicate and no other bit."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from tests.trainers import ONLINE, TRAINERS, outcome
from workbench.errors import Interrupted
from workbench.trainer import checkpoint

TRIES = int(os.environ.get("FAULT_TRIES", "2"))
STEPS, ENDED_AT = 5, 3
CASES = [(name, "metrics.jsonl") for name in TRAINERS]
CASES += [(name, "completions.jsonl") for name in ONLINE]
pytestmark = pytest.mark.slow


@pytest.fixture
def train(make_trainer):
    """train(name, folder, until) -> the outcome of a run that resumes what is there and ends, or is interrupted."""

    def run(name, folder, until=STEPS):
        trainer = make_trainer(name, folder, steps=STEPS, checkpoint_every=1, evaluate_every=2)
        trainer.resume()
        if until < STEPS:
            trainer.optimizer.register_step_post_hook(lambda *_: trainer.step + 1 < until or os.kill(os.getpid(), 15))
        trainer.train()
        return outcome(trainer, folder)

    return run


@pytest.fixture
def broken_off(train, once, tmp_path):
    """broken_off(name) -> (the outcome of the whole run, the folder of one that was interrupted after a few steps)."""

    def stop(name):
        def make(folder):
            with pytest.raises(Interrupted):
                train(name, folder / "stopped", until=ENDED_AT)
            return train(name, folder / "whole"), folder / "stopped"

        whole, stopped = once(f"broken-off-{name}", make)
        return whole, shutil.copytree(stopped, tmp_path / "stopped")

    return stop


def forget_last_checkpoint(run):
    """As where the process died between two of them: the rows of the last step are then of no checkpoint."""
    shutil.rmtree(next(checkpoint.steps_newest_first(run / "checkpoints")))


def last_two_lines(data):
    starts = [0, *(index + 1 for index, byte in enumerate(data) if byte == 10)]
    return starts[-3] if len(starts) > 2 else 0


def damages(data, rng):
    """Every kind of end that a crash leaves."""
    start = last_two_lines(data)
    ends = rng.sample(range(start, len(data)), min(2 * TRIES, len(data) - start))
    yield from ((f"cut at {end} of {len(data)}", data[:end]) for end in [start, len(data) - 1, *ends])
    yield "empty", b""
    yield "without its last end of line", data[:-1]
    yield "NUL bytes behind", data + b"\0" * 512
    yield "NUL bytes and an end of line behind", data + b"\0" * 64 + b"\n"
    yield "NUL bytes in the place of the last line", data[: data.rfind(b"\n", 0, -1) + 1] + b"\0" * 100
    yield "half of a later row behind", data + b'{"step": 99, "loss": 1.'
    yield "a later whole row behind", data + b'{"step": 99, "loss": 1.5}\n'


@pytest.mark.parametrize(("name", "record"), CASES)
@pytest.mark.parametrize("behind", [False, True], ids=["of its rows", "behind them"])
def test_a_damaged_record_is_whole_after_a_resume_from_a_checkpoint(
    name, record, behind, train, broken_off, tmp_path, record_property
):
    whole, stopped = broken_off(name)
    if behind:
        forget_last_checkpoint(stopped)
    kept = int(next(checkpoint.steps_newest_first(stopped / "checkpoints")).name.removeprefix("step_"))
    data, tries = (stopped / record).read_bytes(), 0
    for what, bad in damages(data, random.Random(f"{name} {record}")):
        run = shutil.copytree(stopped, tmp_path / f"run{tries}")
        (run / record).write_bytes(bad)
        assert train(name, run) == whole, f"{record}: {what}; resumed from step {kept}"
        shutil.rmtree(run)
        tries += 1
    record_property("tries", tries)
