"""Out of memory is met with smaller micro-batches, which change no number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from workbench.errors import DivergenceError
from workbench.trainer.batches import Batch, num_rows
from workbench.trainer.incidents import note

if TYPE_CHECKING:
    from workbench.trainer.base_trainer import BaseTrainer

T = TypeVar("T")
# Beside the allocator's own: a library that found no room for its workspace, and a kernel's or a graph's launch.
_WORDS = ("DefaultCPUAllocator: ", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


def within_memory(trainer: BaseTrainer, batch: Batch, compute: Callable[[], T]) -> T:
    """compute(), which cuts `batch` by the trainer's micro_batch_rows; as long as it does not fit, again by half of
    them, and so are all batches that follow. DivergenceError where a single row does not fit, or among several
    processes, which would have to agree."""
    while True:
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            rows = int(min(trainer.micro_batch_rows or math.inf, num_rows(batch)))
            if rows == 1 or trainer.is_distributed:
                remedy = "shorten the rows or take a smaller model" if rows == 1 else "lower micro_batch_rows"
                raise DivergenceError(f"out of memory at micro_batch_rows {rows}: {remedy}") from error
        # Outside of the handler, whose error would keep alive what did not fit.
        trainer.micro_batch_rows = math.ceil(rows / 2)
        note(trainer, f"out of memory at micro_batch_rows {rows}", f"micro_batch_rows {trainer.micro_batch_rows}")
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()


def explained(error: BaseException) -> BaseException:
    """What did not fit outside of the micro-batches, as a line; any other error as it is."""
    if not is_out_of_memory(error):
        return error
    remedy = "sample fewer at a time (batch_prompts, group_size, max_new_tokens), or take a smaller model or LoRA"
    line = DivergenceError(f"out of memory outside of the micro-batches: {remedy}")
    line.__cause__ = error
    return line


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch has a class of errors for its own on a GPU, and only words for the others."""
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    return told or isinstance(error, torch.OutOfMemoryError | MemoryError)
