"""Two processes against one: the same losses, gradients, evaluations and weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from workbench.errors import DataError, DivergenceError, Interrupted, RankError
from workbench.tracking.reader import read_rows
from workbench.tracking.values import Max, Mean

pytestmark = pytest.mark.multi
SETTINGS = {
    "sft": {"learning_rate": 0.01},
    "dpo": {"learning_rate": 0.01, "nll_weight": 0.5},
    "distill": {"learning_rate": 0.01, "on_policy_share": 0.5, "max_new_tokens": 4},
}
ONLINE = {
    "grpo-group": ("grpo", {"beta": 0.1, "entropy_bonus": 0.05, "passes": 2}),
    "grpo-batch-std": ("grpo", {"advantage": "batch_std", "loss": "dr_grpo"}),
    "grpo-reinforce": ("grpo", {"advantage": "reinforce_plus_plus", "overlong": "mask"}),
    "rloo": ("rloo", {"beta": 0.1, "whiten_advantages": True, "passes": 2}),
    "reinforce_pp": ("reinforce_pp", {"beta": 0.1, "overlong": "mask", "entropy_bonus": 0.05}),
    "ppo": ("ppo", {"beta": 0.1, "kl_target": 0.01, "kl_horizon": 50.0, "passes": 2}),
    "ppo-head": ("ppo", {"critic": "head", "passes": 1, "entropy_bonus": 0.05}),
}


@pytest.fixture
def run(torch, small_llama, make_trainer, make_rows, collate):
    """run(name, rank, world, ...) -> (last row, weights) of this process, which takes every world-th row of a batch."""

    def run(
        name, rank, world, folder=None, steps=3, sizes=(5, 3, 4), resume=False, dtype="float64", held_out=3, **more
    ):
        def share(number, seed):
            rows = make_rows(number, seed)[rank::world]
            return collate(name, rows) if rows else {k: v[:0] for k, v in collate(name, make_rows(1)).items()}

        trainer = make_trainer(
            name,
            folder,
            model=small_llama(dtype),
            batches=[share(number, seed) for seed, number in enumerate(sizes)],
            arguments={"val_loader": [collate(name, [row]) for row in make_rows(held_out, seed=9)[rank::world]]},
            **{"steps": steps, "evaluate_every": 1} | SETTINGS[name] | more,
        )
        if resume:
            trainer.resume()
        row = trainer.train()
        return row, torch.cat([p.detach().flatten() for p in trainer.unwrapped_model.parameters()])

    return run


@pytest.fixture
def run_online(torch, small_llama, make_trainer, make_rows, collate):
    """run_online(variant, rank, world, **more) -> (last row, weights): groups of two shared out, the rest whole."""

    def run(variant, rank, world, **more):
        name, settings = ONLINE[variant]

        def share(number, seed):
            rows = torch.arange(number)
            batch = collate(name, make_rows(number, seed)) | {"ended": rows % 3 != 1}
            return {key: value[rows // 2 % world == rank] for key, value in batch.items()}

        trainer = make_trainer(
            f"{name}-scored",
            model=small_llama("float64", **more),
            batches=[share(number, seed) for seed, number in enumerate((10, 6, 9))],
            arguments={"val_loader": [collate(name, make_rows(4, seed=seed)) for seed in range(3)[rank::world]]},
            **{"steps": 4, "evaluate_every": 1} | settings,
        )
        row = trainer.train()
        return row, torch.cat([p.detach().flatten() for p in trainer.unwrapped_model.parameters()])

    return run


def same_numbers(row, expected):
    # Padding is charged as it is computed, and other shares of the rows are padded otherwise.
    names = [name for name in expected if not name.startswith(("time/", "cost/flops"))]
    return {name: row[name] for name in names} == pytest.approx({n: expected[n] for n in names}, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_train_as_one(name, run, in_processes):
    """Uneven shares of the rows, micro-batches of one, an odd evaluation set: one process has more than the other."""
    expected_row, expected = run(name, 0, 1)
    (row, weights), (other_row, other_weights) = in_processes(2, lambda rank: run(name, rank, 2, micro_batch_rows=1))
    assert (weights == other_weights).all()
    assert ((weights - expected).norm() / expected.norm()).item() <= 1e-10
    assert same_numbers(row, expected_row)
    assert same_numbers(other_row, row)


@pytest.mark.parametrize("variant", ONLINE)
def test_two_processes_learn_online_as_one(variant, run_online, in_processes):
    """Uneven shares of groups, statistics over the step, and held-out batches of which one process has more."""
    expected_row, expected = run_online(variant, 0, 1)
    (row, weights), (other_row, other_weights) = in_processes(2, lambda rank: run_online(variant, rank, 2))
    assert (weights == other_weights).all()
    assert ((weights - expected).norm() / expected.norm()).item() <= 1e-10
    assert same_numbers(row, expected_row)
    assert same_numbers(other_row, row)


@pytest.mark.slow
def test_a_critic_beside_an_untied_head_learns_in_two_processes(run_online, in_processes):
    (_, weights), (_, other) = in_processes(2, lambda rank: run_online("ppo", rank, 2, tie_word_embeddings=False))
    assert (weights == other).all()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "more", [{"gradient_checkpointing": True, "micro_batch_rows": 1}, {"ema_decay": 0.5}, {"optimizer": "muon"}]
)
def test_two_processes_train_as_one_with_every_extra(name, more, run, in_processes):
    expected_row, expected = run(name, 0, 1, **more)
    (row, weights), (_, other_weights) = in_processes(2, lambda rank: run(name, rank, 2, **more))
    assert (weights == other_weights).all()
    assert ((weights - expected).norm() / expected.norm()).item() <= 1e-10
    assert same_numbers(row, expected_row)


def test_averages_begin_at_the_weights_that_all_processes_share(torch, small_llama, make_trainer, in_processes):
    """A model that every process has made by itself is the main process's once the trainer is made."""

    def averages(rank):
        model = small_llama("float64")
        with torch.no_grad():
            model.lm_head.weight.add_(rank)
        trainer = make_trainer("sft", model=model, ema_decay=0.9)
        return torch.cat([average.flatten() for average in trainer.descent.ema.shadow.values()])

    main, other = in_processes(2, averages)
    assert (main == other).all()


def test_a_process_without_held_out_rows_takes_part_in_evaluation(run, in_processes):
    expected, _ = run("dpo", 0, 1, held_out=1)
    (row, _), _ = in_processes(2, lambda rank: run("dpo", rank, 2, held_out=1))
    assert same_numbers(row, expected)


@pytest.mark.slow
def test_a_process_without_rows_to_train_on_is_refused(run, in_processes):
    def refused(rank):
        try:
            run("sft", rank, 2, sizes=(1, 1, 1))
        except DataError as error:
            return str(error)
        except RankError as error:
            return str(error)
        return ""

    assert in_processes(2, refused) == [
        "rank 1 failed: DataError: batch 1 has no row for process 1; take larger batches",
        "batch 1 has no row for process 1; take larger batches",
    ]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_checkpoint_moves_between_one_and_two_processes(order, run, in_processes, tmp_path):
    expected_row, expected = run("dpo", 0, 1, None, 4, (4, 5, 3))
    _interrupted(run, in_processes, order[0], tmp_path)
    row, weights = in_processes(order[1], lambda rank: run("dpo", rank, order[1], tmp_path, 4, (4, 5, 3), True))[0]
    assert [found["step"] for found in read_rows(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    assert ((weights - expected).norm() / expected.norm()).item() <= 1e-10
    assert same_numbers(row, expected_row)


def _interrupted(run, in_processes, number, folder):
    """Run until a signal reaches one process, the last, in its second step; every process stops with a checkpoint."""

    def stopped(rank):
        from workbench.trainer import DPOTrainer

        prepare, calls = DPOTrainer._prepare_batch, []

        def prepare_and_signal(trainer, batch):
            calls.append(trainer.step)
            if rank == number - 1 and calls.count(1) == 1 and trainer.step == 1:
                signal.raise_signal(signal.SIGTERM)
            return prepare(trainer, batch)

        DPOTrainer._prepare_batch = prepare_and_signal
        try:
            run("dpo", rank, number, folder, 4, (4, 5, 3))
        except Interrupted as error:
            return error.exit_code
        return 0

    assert in_processes(number, stopped) == [143] * number


def test_a_wrong_reference_in_one_process_stops_all(small_llama, make_trainer, make_rows, collate, in_processes):
    def stopped(rank):
        batch = collate("dpo", make_rows(2, seed=rank))
        reference = small_llama(seed=rank)  # the second process has another model as its reference
        arguments = {"ref_model": reference, "val_loader": None}
        try:
            make_trainer(
                "dpo", batches=[batch], arguments=arguments, steps=1, sync_reference_every=0, sync_reference_weight=1.0
            ).train()
        except DivergenceError as error:
            return str(error)
        return ""

    first, second = in_processes(2, stopped)
    assert first == second
    assert "policy and reference differ" in first


def test_metrics_are_pooled_over_processes_whatever_each_has_seen(torch, in_processes):
    def pooled(rank):
        from workbench.trainer.loop.accumulation import StepLoss
        from workbench.trainer.loss import LossResult, LossTerm
        from workbench.trainer.machine.distributed import join_process_group

        join_process_group(torch.device("cpu"))
        loss = StepLoss()
        for value in ([1.0, 2.0, 6.0], [])[rank]:
            metrics = {"mean": Mean(torch.tensor(value), 1), "most": Max(value)}
            loss.add(LossResult({"loss": LossTerm(torch.tensor(value), 2.0)}, metrics))
        return loss.finish()

    assert in_processes(2, pooled) == [{"loss": 1.5, "mean": 3.0, "most": 6.0}] * 2


def test_two_processes_find_each_other_by_torchruns_environment(in_processes):
    def names(rank):
        import torch

        from workbench.trainer.machine import distributed

        distributed.join_process_group(torch.device("cpu"))
        reduced = distributed.reduce_tensor(torch.tensor([float(rank), 1.0])).tolist()
        most = distributed.reduce_tensor(torch.tensor(float(rank)), "max").item()
        told = distributed.broadcast_object({"from": rank})
        return distributed.get_rank(), distributed.is_main(), reduced, most, told, distributed.any_process(rank == 1)

    assert in_processes(2, names) == [
        (0, True, [1.0, 2.0], 1.0, {"from": 0}, True),
        (1, False, [1.0, 2.0], 1.0, {"from": 0}, True),
    ]
    assert "RANK" not in os.environ


# What is registered first runs last: by then the processes must have parted.
SCRIPT = """
import atexit, os, sys
from pathlib import Path
import torch

atexit.register(lambda: os.write(1, b"together\\n" if torch.distributed.is_initialized() else b"parted\\n"))
from workbench.models.load import load_model
from workbench.trainer import SFTTrainer

folder, output = map(Path, sys.argv[1:])
settings = SFTTrainer.settings_class(steps=2, precision="float32", device="cpu")
ids = torch.arange(2, 26).view(4, 6)
trainer = SFTTrainer(load_model(folder), None, [], settings=settings, output_dir=output)
rows = ids[trainer.rank :: trainer.world_size]
trainer.feed.loader = [{"input_ids": rows, "labels": rows}]
trainer.train()
"""


@pytest.mark.slow
def test_torchrun_starts_the_same_run(tiny_folder, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    # This machine's own name need not resolve.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    rows = {}
    for number in (1, 2):
        output = tmp_path / str(number)
        script = [str(tmp_path / "train.py"), str(tiny_folder), str(output)]
        done = subprocess.run(
            [*command, "--nproc-per-node", str(number), *script],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.split() == ["parted"] * number
        rows[number] = read_rows(output / "metrics.jsonl")
    assert [row["step"] for row in rows[2]] == [0, 1, 2]
    assert rows[2][2]["loss"] == pytest.approx(rows[1][2]["loss"], rel=1e-5)
