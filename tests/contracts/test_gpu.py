"""What holds on a CPU holds on a GPU: a killed run goes on to the same bits, and where memory is full, micro-batches
halve. Nothing here starts CUDA but in processes of their own: no fork survives it."""

from __future__ import annotations

import os
import signal

import pytest

from tests.batches import VOCABULARY
from tests.contracts.test_out_of_memory import MEGABYTES, Hungry
from tests.trainers import EVERY_TRAINER, TRAINERS, outcome
from workbench.errors import CheckpointError, DivergenceError
from workbench.experiment.running.processes import set_environment

EVERY = {"steps": 6, "checkpoint_every": 2, "evaluate_every": 3}
# Wide enough for the kernels that a real model's attention takes, those in bf16 among them.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
pytestmark = [pytest.mark.gpu, pytest.mark.multi]


@pytest.fixture(autouse=True)
def _gpu(torch):
    set_environment()
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def build(make_trainer, small_llama):
    """build(variant, folder, **settings) -> its trainer on the GPU."""

    def make(variant, folder, dtype="float32", **settings):
        model = small_llama(dtype, **WIDE)
        return make_trainer(variant, folder, model=model, **(EVERY | {"device": "cuda"} | settings))

    return make


@pytest.fixture
def train(build):
    """train(variant, folder, **settings) -> the outcome of a run that resumes what is there and ends."""

    def run(variant, folder, hook=lambda trainer: None, **settings):
        trainer = build(variant, folder, **settings)
        hook(trainer)
        trainer.resume()
        trainer.train()
        return outcome(trainer, folder)

    return run


def kill_at_update(number):
    """A hook that kills the process after the number-th update."""
    left = [number]

    def kill(*_):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda trainer: trainer.optimizer.register_step_post_hook(kill)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("variant", EVERY_TRAINER)
def test_a_killed_run_goes_on_to_the_same_bits(variant, precision, train, in_processes, tmp_path):
    def run(folder, **more):
        return in_processes(1, lambda _: train(variant, tmp_path / folder, precision=precision, **more))[0]

    whole = run("whole")
    assert [row["step"] for row in whole["rows"]] == list(range(EVERY["steps"] + 1))
    assert run("hit", hook=kill_at_update(4)) == -signal.SIGKILL
    assert run("hit", hook=kill_at_update(2)) == -signal.SIGKILL
    assert run("hit") == whole


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_long_rows_give_the_same_bits_again(
    name, precision, make_trainer, collate, small_llama, torch, in_processes, tmp_path
):
    """Long enough for kernels that add up in whatever order their blocks end."""
    rows = torch.randint(1, VOCABULARY, (4, 3, 700), generator=torch.Generator().manual_seed(0)).tolist()

    def run(folder):
        trainer = make_trainer(
            name,
            folder,
            model=small_llama(**WIDE, max_position_embeddings=2048),
            batches=[collate(name, rows)],
            **(EVERY | {"device": "cuda", "precision": precision}),
        )
        trainer.train()
        return outcome(trainer, folder)

    first, second = (in_processes(1, lambda _, name=name: run(tmp_path / name)) for name in ("first", "second"))
    assert first == second


def limit_memory(torch, rows):
    """From now on the GPU has room for the forward of so many rows."""
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + (rows * MEGABYTES + MEGABYTES * 15 // 16) * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)


@pytest.mark.parametrize("variant", TRAINERS)
def test_memory_that_is_full_halves_the_micro_batch_and_the_gradient_agrees(
    variant, build, torch, in_processes, tmp_path
):
    def first_gradient(folder, fits):
        trainer = build(
            variant,
            tmp_path / folder,
            mixin=Hungry,
            dtype="float64",
            rows=7,
            make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.0),
            steps=1,
            max_grad_norm=None,
            ema_decay=None,
        )
        gradients = []
        trainer.optimizer.register_step_pre_hook(
            lambda *_: gradients.append(torch.cat([p.grad.flatten() for p in trainer.parameters]))
        )
        limit_memory(torch, fits)
        trainer.train()
        return gradients[0].cpu().numpy(), trainer.seen, trainer.micro_batch_rows

    [(whole, rows, unchanged)] = in_processes(1, lambda _: first_gradient("whole", 100))
    fits = rows[-1] // 3
    [(small, seen, kept)] = in_processes(1, lambda _: first_gradient("small", fits))
    assert unchanged is None
    assert max(seen) > fits >= seen[-1]
    assert 1 <= kept <= fits
    difference, norm = torch.tensor(small - whole).norm(), torch.tensor(whole).norm()
    assert norm > 0
    assert difference / norm < 1e-10


@pytest.mark.parametrize("name", TRAINERS)
def test_one_row_that_does_not_fit_ends_with_a_remedy(name, build, torch, in_processes, tmp_path):
    def run(_):
        trainer = build(name, tmp_path, mixin=Hungry)
        limit_memory(torch, 0)
        with pytest.raises(DivergenceError) as caught:
            trainer.train()
        return str(caught.value), caught.value.exit_code

    remedy = "shorten the rows or take a smaller model"
    assert in_processes(1, run) == [(f"out of memory at micro_batch_rows 1: {remedy}", 6)]


def test_a_run_of_a_gpu_is_not_resumed_on_a_cpu_unasked(build, train, in_processes, tmp_path):
    in_processes(1, lambda _: train("sft", tmp_path)["weights"])
    with pytest.raises(CheckpointError, match=r"written under device .*, now cpu with .*--inexact"):
        build("sft", tmp_path, device="cpu").resume()
