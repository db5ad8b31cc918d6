"""Whether an error says that memory ran out, and what a user can do where smaller micro-batches do not help."""

from __future__ import annotations

import torch

from workbench.errors import DivergenceError

# What the allocator says on a CPU, a library that found no room for its workspace, and a kernel or a graph.
_WORDS = ("DefaultCPUAllocator: ", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


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
