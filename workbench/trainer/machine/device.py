"""The device of this process, the kernels that it takes there, and its random numbers."""

from __future__ import annotations

import os

import torch

from workbench.errors import DefinitionError


def training_device(wanted: str | None, deterministic: bool = True) -> torch.device:
    """The device that is wanted, else this process's GPU, else the CPU. From now on a GPU adds up in one order, unless
    it need not be deterministic; a CPU does so as it is."""
    kind = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DefinitionError("device is cuda, but torch finds no GPU here; leave device out or set it to cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # A warning alone would not do: attention's backward would keep to the order in which its blocks end.
    torch.use_deterministic_algorithms(deterministic)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def seed_step(device: torch.device, seed: int, step: int, phase: int, rank: int, world_size: int) -> None:
    """Seed the generators for a part of a step: phase 0 makes its batches, phase 1 its gradient.

    Random numbers depend on the run's seed and the step alone, so that a checkpoint needs no generator state.
    """
    number = ((seed * 1_000_003 + step) * 2 + phase) * world_size + rank
    # torch.manual_seed asks after every kind of device, which takes 0.13 ms: a tenth of a small model's step.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def explained(error: BaseException) -> BaseException:
    """An operation that has no deterministic kernel, as a line with the remedy; any other error as it is."""
    operation, found, _ = str(error).partition(" does not have a deterministic implementation")
    if not (found and isinstance(error, RuntimeError)):
        return error
    line = DefinitionError(f"{operation} has no deterministic kernel on this GPU; set deterministic: false")
    line.__cause__ = error
    return line
