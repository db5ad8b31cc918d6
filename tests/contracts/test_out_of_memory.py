"""Out of memory, for every trainer and for real: a forward whose activations do not fit below the process's limit."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Any

import pytest

from tests.trainers import EVERY_TRAINER, ONLINE
from workbench.errors import DivergenceError
from workbench.tracking.reader import read_rows
from workbench.trainer.loop.batches import num_rows

MEGABYTES = 512
"""What one row's forward takes, besides what it really needs."""
ALLOWED = {"float32": 1e-5, "float64": 1e-10}
pytestmark = pytest.mark.multi


def size_of_this_process():
    return int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def limit_memory(torch, rows):
    """From now on a forward of so many rows fits, and none of one more."""
    torch.empty(1)
    size = size_of_this_process() + rows * MEGABYTES * 2**20 + MEGABYTES * 2**19
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


class Hungry:
    """A trainer whose forward allocates as much as a larger model's would, and keeps the rows of every attempt."""

    device: Any

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.seen = []

    def _forward(self, batch):
        import torch

        self.seen.append(num_rows(batch))
        torch.empty(self.seen[-1], MEGABYTES, 2**20, dtype=torch.uint8, device=self.device)
        return super()._forward(batch)


@pytest.fixture
def first_gradient(torch, small_llama, make_trainer):
    """first_gradient(variant, dtype, folder, fits=None) -> the first step's whole gradient, the rows of the attempts,
    and the trainer's micro_batch_rows and account. fits: rows that memory is enough for."""

    def compute(variant, dtype, folder, fits=None):
        trainer = make_trainer(
            variant,
            folder,
            mixin=Hungry,
            rows=7,
            model=small_llama(dtype),
            make_optimizer=lambda model: torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0),
            steps=1,
            max_grad_norm=None,
            ema_decay=None,
            lora_dropout=0.0,
        )
        gradients = []
        trainer.optimizer.register_step_pre_hook(
            lambda *_: gradients.append(torch.cat([p.grad.flatten() for p in trainer.parameters]))
        )
        if fits:
            limit_memory(torch, fits)
        trainer.train()
        account = [(entry["step"], entry["what"], entry["action"]) for entry in trainer.incidents]
        return gradients[0].numpy(), trainer.seen, trainer.micro_batch_rows, account

    return compute


@pytest.mark.parametrize(("dtype", "variant"), [("float32", "sft"), *(("float64", name) for name in EVERY_TRAINER)])
def test_the_micro_batch_halves_and_the_gradient_agrees(variant, dtype, first_gradient, torch, in_processes, tmp_path):
    whole, rows, _, _ = first_gradient(variant, dtype, tmp_path / "whole")
    fits = rows[-1] // 3
    [(small, seen, kept, account)] = in_processes(1, lambda _: first_gradient(variant, dtype, tmp_path / "small", fits))
    assert max(seen) > fits >= seen[-1]
    assert 1 <= kept <= fits
    assert account[0][1:] == (f"out of memory at micro_batch_rows {rows[0]}", f"micro_batch_rows {-(-rows[0] // 2)}")
    difference, norm = torch.tensor(small - whole).norm(), torch.tensor(whole).norm()
    assert norm > 0
    assert difference / norm < ALLOWED[dtype]


@pytest.mark.parametrize("variant", EVERY_TRAINER)
def test_the_new_size_is_kept_in_the_checkpoint(variant, make_trainer, torch, in_processes, tmp_path):
    def run(steps, fits):
        trainer = make_trainer(variant, tmp_path, mixin=Hungry, steps=4, checkpoint_every=2)
        if fits:
            limit_memory(torch, fits)
        trainer.resume()
        trainer.progress.num_steps = steps
        trainer.train()
        return trainer.micro_batch_rows, set(trainer.seen), len(trainer.incidents)

    [(kept, _, told)] = in_processes(1, lambda _: run(2, 1))
    assert (kept, told >= 1) == (1, True)
    assert run(4, None) == (1, {1}, told)
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == list(range(5))


@pytest.mark.parametrize("variant", EVERY_TRAINER)
def test_one_row_that_does_not_fit_ends_with_a_remedy(variant, make_trainer, torch, in_processes, tmp_path):
    def run(_):
        trainer = make_trainer(variant, tmp_path, mixin=Hungry, steps=4)
        limit_memory(torch, 0)
        try:
            trainer.train()
        except DivergenceError as error:
            return str(error), error.exit_code, trainer.incidents[-1]["action"]

    [(message, code, action)] = in_processes(1, run)
    assert message == "out of memory at micro_batch_rows 1: shorten the rows or take a smaller model"
    assert (code, action) == (6, "stop")


def test_another_error_of_the_forward_is_not_taken_for_it(make_trainer):
    trainer = make_trainer("sft", steps=2)

    def fail(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trainer.train()
    assert trainer.micro_batch_rows is None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("AcceleratorError", "CUDA error: out of memory"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_gpus_error_is_taken_for_it_too(kind, words, make_trainer, torch):
    calls = []

    class FailsOnce:
        def _forward(self, batch):
            calls.append(num_rows(batch))
            if len(calls) == 1:
                raise getattr(torch, kind, RuntimeError)(words)
            return super()._forward(batch)

    make_trainer("sft", mixin=FailsOnce, steps=2).train()
    assert calls[:3] == [3, 2, 1]


@pytest.mark.parametrize("name", ONLINE)
def test_completions_that_do_not_fit_are_one_line(name, torch, small_llama, rollout_trainer, in_processes):
    def run(_):
        limit_memory(torch, 1)
        model = small_llama(max_position_embeddings=2 * 10**6)
        trainer = rollout_trainer(name, model=model, max_new_tokens=10**6)
        with pytest.raises(DivergenceError) as caught:
            trainer.train()
        return str(caught.value), trainer.incidents[-1]["what"]

    [(said, noted)] = in_processes(1, run)
    assert said == noted
    assert said.startswith("out of memory outside of the micro-batches: sample fewer at a time (batch_prompts,")
