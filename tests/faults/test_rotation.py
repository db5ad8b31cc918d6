"""Rotation: whatever is damaged, best, stale or will not be deleted, what a resume needs survives, at any kill."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal

import pytest
import torch

from tests.faults.conftest import kill
from tests.trainers import TRAINERS, outcome
from workbench.trainer import checkpoint

TRIES = int(os.environ.get("FAULT_TRIES", "2"))
STEPS = (1, 2, 3, 4)
EVERY = {"steps": 5, "checkpoint_every": 1, "evaluate_every": 1, "keep_checkpoints": 1}
BEST = {"early_stopping": {"metric": "eval/loss", "mode": "max", "patience": 9}}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A whole checkpoint, and one that is damaged."""
    folder = tmp_path_factory.mktemp("template")
    checkpoint.write(folder / "good", {"model": {"w": torch.arange(3.0)}}, {"version": 1})
    shutil.copytree(folder / "good", folder / "bad")
    (folder / "bad" / "state.json").write_text("{}")
    return folder


def subsets(values):
    return itertools.chain.from_iterable(itertools.combinations(values, size) for size in range(len(values) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True], ids=["deleted", "a delete fails"])
def test_at_every_combination_k_newest_best_and_newest_valid_survive(
    fails, template, tmp_path, monkeypatch, record_property
):
    """Every k, every newest (what is above it is stale), every best and every set of damaged ones."""
    tries, delete = 0, shutil.rmtree
    cases = itertools.product((1, 2, 3), STEPS, (None, *STEPS), subsets(STEPS))
    for keep, newest, best, damaged in cases:
        if best is not None and best > newest:
            continue  # the best is a step of this history
        folder = tmp_path / str(tries)
        for step in STEPS:
            shutil.copytree(template / ("bad" if step in damaged else "good"), checkpoint.step_folder(folder, step))
        (folder / "step_00000009.partial").mkdir()
        always = set() if best is None else {checkpoint.step_folder(folder, best)}
        if fails:
            left = checkpoint.step_folder(folder, STEPS[tries % len(STEPS)])
            monkeypatch.setattr(shutil, "rmtree", lambda path, left=left, **more: path == left or delete(path, **more))
        checkpoint.rotate(checkpoint.step_folder(folder, newest), keep, always)
        monkeypatch.undo()
        history = [step for step in STEPS if step <= newest]
        valid = [step for step in history if step not in damaged]
        expected = {*history[-keep:], *([best] if best else []), *valid[-1:]}
        found = {int(path.name.removeprefix("step_")) for path in folder.iterdir()}
        case = f"keep {keep}, newest {newest}, best {best}, damaged {damaged}"
        assert expected <= found, case
        assert found - expected <= ({STEPS[tries % len(STEPS)]} if fails else set()), case
        checkpoint.rotate(checkpoint.step_folder(folder, newest), keep, always)
        assert {int(path.name.removeprefix("step_")) for path in folder.iterdir()} == expected, f"{case}, again"
        delete(folder)
        tries += 1
    assert tries == 3 * 2**4 * (4 + (1 + 2 + 3 + 4))
    record_property("tries", tries)


@pytest.fixture
def train(make_trainer):
    """train(variant, folder) -> the outcome of a run that keeps its best checkpoint, resumed where it was."""

    def run(variant, folder):
        trainer = make_trainer(variant, folder, **EVERY | BEST)
        trainer.resume()
        trainer.train()
        return outcome(trainer, folder), trainer.stopper.state.best_step

    return run


@pytest.mark.slow
@pytest.mark.multi
@pytest.mark.parametrize("variant", TRAINERS)
def test_killed_in_the_middle_of_rotation_the_run_ends_the_same(
    variant, train, in_processes, tmp_path, record_property
):
    """Before the n-th file that rotation removes, so that a checkpoint under its final name is half deleted."""

    def victim(folder, number):
        rotate, remove, seen = checkpoint.rotate, os.unlink, []

        def counted_remove(path, **more):
            seen.append(path)
            if len(seen) == number:
                kill()
            remove(path, **more)

        def hit(*arguments):
            os.unlink = counted_remove
            rotate(*arguments)
            os.unlink = remove

        checkpoint.rotate = hit
        return train(variant, folder), len(seen)

    [(whole, removed)] = in_processes(1, lambda _: victim(tmp_path / "whole", 0))
    assert removed > 4, "nothing was rotated away"
    rng = random.Random(variant)
    for index in range(TRIES // 2):
        folder, number = tmp_path / str(index), rng.randint(1, removed)
        [ended] = in_processes(1, lambda _, folder=folder, number=number: victim(folder, number))
        assert ended == -signal.SIGKILL
        damaged = [
            path for path in checkpoint.steps_newest_first(folder / "checkpoints") if checkpoint.find_damage(path)
        ]
        assert len(damaged) <= 1
        [again] = in_processes(1, lambda _, folder=folder: train(variant, folder))
        assert again == whole, f"killed before removal {number} of {removed}"
    record_property("tries", TRIES // 2)
