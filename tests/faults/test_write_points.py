"""SIGKILL at every named point of a run, of every trainer: what it writes, syncs, renames and deletes, its records, its
rollouts and updates. The same command goes on to the same bits.

FAULT_TRIES: kills of each variant, spread over the kinds of points (`make faults` takes many, CI a few).
"""

from __future__ import annotations

import functools
import os
import random
import re
import signal
from collections import defaultdict

import pytest

from tests.batches import share_of_late_letters
from tests.faults.conftest import Moments, kill
from tests.trainers import EVERY_TRAINER, VARIANTS, outcome
from workbench.tracking.store import MetricStore

TRIES = int(os.environ.get("FAULT_TRIES", "2"))
STEPS = 6
EVERY = {"steps": STEPS, "checkpoint_every": 2, "evaluate_every": 3, "keep_checkpoints": 1}
CHECKPOINT = {
    "temporary folder": r"mkdir checkpoints/step_\d+\.partial",
    "temporary write": r"open checkpoints/step_\d+\.partial/(?!manifest)",
    "manifest": r"open checkpoints/step_\d+\.partial/manifest",
    "fsync of a file": r"fsync checkpoints/step_\d+\.partial/",
    "fsync of the new folder": r"fsync checkpoints/step_\d+\.partial$",
    "fsync of the parent": r"fsync checkpoints$",
    "rename": r"rename checkpoints",
    "rotation": r"rmtree checkpoints",
    "rotation, half-way": r"(remove|rmdir) (checkpoints|manifest|state|model|optimizer|ema|feed)",
    "records synced": r"fsync (metrics|completions)\.jsonl",
}
RUN = {"record": "append", "record written": "appended", "forward": "forward", "update": "update", "updated": "updated"}
ROLLOUT = {"mid-rollout": "reward", "rollout rewarded": "rewarded"}
pytestmark = [pytest.mark.slow, pytest.mark.multi]


def visiting(moments, call, before, after=None):
    """The call, which visits these points."""

    @functools.wraps(call)
    def wrapped(*arguments, **keywords):
        moments.visit(before)
        result = call(*arguments, **keywords)
        if after:
            moments.visit(after)
        return result

    return wrapped


def name_moments(trainer, moments):
    """Names the points that are no writes to a folder, but for rewards."""
    for owner, name, *points in (
        (MetricStore, "append_many", "append", "appended"),
        (trainer, "_forward", "forward"),
        (trainer.precision, "step", "update", "updated"),
    ):
        setattr(owner, name, visiting(moments, getattr(owner, name), *points))


@pytest.fixture
def train(make_trainer):
    """train(variant, folder, number=0) -> the outcome and the names of all moments; killed before the number-th."""

    def run(variant, folder, number=0):
        moments, arguments = Moments(number, kill), {}
        if number >= 0 and VARIANTS[variant].samples:
            arguments = {"reward_fn": visiting(moments, share_of_late_letters, "reward", "rewarded")}
        trainer = make_trainer(variant, folder, arguments=arguments, **EVERY)
        if number >= 0:
            name_moments(trainer, moments)
            moments.before_writes(folder)
        trainer.resume()
        trainer.train()
        return outcome(trainer, folder), moments.seen

    return run


def kinds_of(variant):
    return CHECKPOINT | RUN | (ROLLOUT if VARIANTS[variant].samples else {})


@pytest.mark.parametrize("variant", EVERY_TRAINER)
def test_killed_at_every_named_point_nothing_is_lost(variant, train, in_processes, tmp_path, record_property):
    whole, _ = train(variant, tmp_path / "whole", -1)  # here, so that the processes forked from here are warm
    [(again, names)] = in_processes(1, lambda _: train(variant, tmp_path / "named"))
    assert again == whole
    points = defaultdict(list)
    for number, name in enumerate(names, start=1):
        for kind, pattern in kinds_of(variant).items():
            if re.match(rf"{pattern}", name) and (kind in CHECKPOINT or name == pattern):
                points[kind].append(number)
    assert points.keys() == kinds_of(variant).keys(), "every kind of point comes in the run"
    rng = random.Random(variant)
    kinds = [kind for _ in range(TRIES) for kind in rng.sample(sorted(points), len(points))][:TRIES]
    for index, kind in enumerate(kinds):
        number, folder = rng.choice(points[kind]), tmp_path / f"run{index}"
        [ended] = in_processes(1, lambda _, folder=folder, number=number: train(variant, folder, number))
        assert ended == -signal.SIGKILL, f"never came to {kind}, number {number}"
        [(again, _)] = in_processes(1, lambda _, folder=folder: train(variant, folder, -1))
        assert again == whole, f"killed at {kind}: before {names[number - 1]}, number {number}"
        assert not list(folder.rglob("*.partial"))
    record_property("tries", len(kinds))


def test_a_run_killed_at_one_point_after_another_ends_at_the_same_bits(train, in_processes, tmp_path):
    """Whatever was half done when it was killed, again and again in the same folder."""
    whole, _ = train("grpo", tmp_path / "whole", -1)
    [(_, names)] = in_processes(1, lambda _: train("grpo", tmp_path / "named"))
    rng = random.Random(0)
    for _ in range(4 * TRIES):
        number = rng.randrange(1, len(names) // 3)
        [ended] = in_processes(1, lambda _, number=number: train("grpo", tmp_path / "run", number))
        if ended != -signal.SIGKILL:
            break
    [(again, _)] = in_processes(1, lambda _: train("grpo", tmp_path / "run", -1))
    assert again == whole
