"""What a run's bits depend on beside its settings: code, libraries, device, threads, processes, and the data.

A checkpoint holds them, so that a resume which could not be exact is refused, or marked where it was asked for.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from workbench.own_code import own_hash
from workbench.trainer.machine import distributed

LIBRARIES = ("torch", "transformers", "numpy", "peft")
CODE = "code of the workbench"
LARGEST_LIST = 256
"""Batches of a plain list that are hashed; of a longer one the first and the last."""
SAMPLED_ROWS = 16


def surroundings_of(device: torch.device, loader: Any) -> dict[str, str]:
    """The surroundings by name; what cannot be told (the data of a loader that is read but once) is left out. Every
    process must call it."""
    found = {CODE: own_hash()} | {name: installed_version(name) for name in LIBRARIES}
    processes = distributed.get_world_size()
    found["device"] = _name_of(device)
    found |= {"threads": str(torch.get_num_threads()), "processes": str(processes)}
    return found | _data_of(loader, processes)


def differences(saved: Mapping[str, str], own: Mapping[str, str]) -> list[str]:
    """What differs between the two, in words, of what both know; a record without code is of code that wrote none."""
    saved = {CODE: "before it was recorded"} | dict(saved)
    return [f"{name} {saved[name]}, now {own[name]}" for name in own if name in saved and saved[name] != own[name]]


def _name_of(device: torch.device) -> str:
    """A GPU by its model, a CPU by the instructions that torch uses of it: each chooses other kernels."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} with {torch.backends.cpu.get_cpu_capability()}"


@functools.cache
def installed_version(name: str) -> str:
    """A library's version. It is asked for once a process, for that takes 2 ms and a checkpoint asks for several."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _data_of(loader: Any, processes: int) -> dict[str, str]:
    """The data's hash by its name: of a set of rows the same in every process; batches in a list are each process's
    own, so that only as many processes can compare theirs."""
    own = _data_digest(loader)
    everyone = distributed.gather_objects(own)
    if not all(everyone):
        return {}
    if len(set(everyone)) == 1 and getattr(loader, "data", None) is not None:
        return {"data": own}
    return {f"data of {processes} processes": hashlib.sha256("".join(everyone).encode()).hexdigest()[:16]}


def _data_digest(loader: Any) -> str:
    """A hash that another set of rows would hardly share: of every length and of rows from all over the set."""
    digest = hashlib.sha256()
    data = getattr(loader, "data", None)
    if data is not None and len(data):
        digest.update(np.ascontiguousarray(data.lengths).tobytes())
        rows = np.unique(np.linspace(0, len(data) - 1, SAMPLED_ROWS).astype(np.int64))
        _add(digest, data.batch(rows))
    elif isinstance(loader, list | tuple) and loader:
        batches = loader if len(loader) <= LARGEST_LIST else [loader[0], loader[-1]]
        digest.update(str(len(loader)).encode())
        for batch in batches:
            _add(digest, batch)
    else:
        return ""
    return digest.hexdigest()[:16]


def _add(digest: Any, value: Any) -> None:
    """Tensors, texts and numbers, in mappings and lists."""
    if isinstance(value, torch.Tensor):
        digest.update(str((value.dtype, tuple(value.shape))).encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    elif isinstance(value, Mapping):
        for name in sorted(map(str, value)):
            digest.update(name.encode())
            _add(digest, value[name])
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for part in value:
            _add(digest, part)
    else:
        digest.update(repr(value).encode())
