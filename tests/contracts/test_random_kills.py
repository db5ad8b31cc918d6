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

from workbench.tracking.reader import read_rows
from workbench.trainer.registry import trainer_names

TRIES = int(os.environ.get("FAULT_TRIES", "2"))
STEPS = 6
EVERY = {"steps": STEPS, "checkpoint_every": 2, "evaluate_every": 3}
SAMPLING = {"batch_prompts": 3, "group_size": 3, "max_new_tokens": 4}
VARIANTS = {
    **{name: (name, {}) for name in trainer_names() if name in ("sft", "pretrain", "dpo")},
    "sft-lora": ("sft", {"lora": True}),
    "dpo-lora": ("dpo", {"lora": True, "ema_decay": 0.9}),
    "grpo": ("grpo", SAMPLING | {"passes": 2, "minibatches": 2}),
    "grpo-lora": ("grpo", SAMPLING | {"lora": True, "beta": 0.1}),
    "ppo": ("ppo", SAMPLING | {"passes": 2, "kl_target": 0.01, "kl_horizon": 50.0}),
    "online_dpo": ("online_dpo", SAMPLING | {"passes": 2}),
}
ONLINE = ("grpo", "ppo", "online_dpo")
pytestmark = [pytest.mark.slow, pytest.mark.multi]


@pytest.fixture
def train(make_trainer, collate, make_rows, prompt_batch, rollout_arguments):
    """train(variant, folder) -> the outcome of a run that resumes what is there and ends."""

    def run(variant, folder):
        name, settings = VARIANTS[variant]
        make_batch = prompt_batch if name in ONLINE else lambda number, seed: collate(name, make_rows(number, seed))
        arguments = {"output_dir": folder, "val_loader": [make_batch(3, 11)]}
        arguments |= rollout_arguments if name in ONLINE else {}
        batches = [make_batch(3, index) for index in range(4)]
        trainer = make_trainer(name, batches=batches, arguments=arguments, **(EVERY | settings))
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
