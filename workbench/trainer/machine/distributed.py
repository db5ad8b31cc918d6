"""Several processes, found from the environment that torchrun sets: gloo on CPU, NCCL on GPU."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from workbench.errors import Interrupted
from workbench.trainer.machine.peers import PeerWatch

T = TypeVar("T")

# What is exchanged on the CPU has a group of its own, which nothing else holds. So leaving it ends gloo's threads: one
# that still lets go of an exchanged tensor while Python shuts down aborts the process (about one end in four).
_own_group: list[torch.distributed.ProcessGroup] = []
_watch: list[PeerWatch] = []


def _group(device: torch.device) -> torch.distributed.ProcessGroup | None:
    return _own_group[0] if device.type == "cpu" and _own_group else None


def is_distributed() -> bool:
    """Whether this process is one of several of a job."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def get_rank() -> int:
    """This process's number in the job; 0 alone."""
    return int(os.environ.get("RANK", "0"))


def get_world_size() -> int:
    """The job's number of processes; 1 alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that prints and saves."""
    return get_rank() == 0


def join_process_group(device: torch.device) -> None:
    """Meet the other processes, once, and part from them at this process's end; nothing to do for a single process."""
    if is_distributed() and not torch.distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        _own_group.append(torch.distributed.new_group(backend="gloo"))
        _watch.append(PeerWatch(get_rank(), get_world_size()))
        atexit.register(leave_process_group)


def waiting() -> contextlib.AbstractContextManager[None]:
    """Around whatever waits for the other processes, so that one which does not come is found out."""
    return _watch[0].waiting() if _watch else contextlib.nullcontext()


def progress() -> None:
    """Say that this process has come further."""
    if _watch:
        _watch[0].progress()


def when_ended(tell: Callable[[str], None]) -> None:
    """tell is called with the verdict where a process that does not answer, or stalls, ends this one from outside its
    main thread."""
    if _watch:
        _watch[0].on_end = tell


def explained(error: BaseException) -> BaseException:
    """An error that ends this process, told to the others; or the RankError of another process that is to blame."""
    if not _watch or isinstance(error, Interrupted):
        return error
    if isinstance(error, RuntimeError) and (found := _watch[0].blame(error)) is not None:
        return found
    _watch[0].fail(f"{type(error).__name__}: {error}")
    return error


def reduce_tensor(tensor: torch.Tensor, operation: str = "sum") -> torch.Tensor:
    """The sum or maximum ("sum", "max") of every process's tensor; the tensor itself when alone."""
    if not is_distributed():
        return tensor
    reduced = tensor.clone()
    operations = {"sum": torch.distributed.ReduceOp.SUM, "max": torch.distributed.ReduceOp.MAX}
    with waiting():
        torch.distributed.all_reduce(reduced, operations[operation], group=_group(tensor.device))
    return reduced


def gather_objects(value: T) -> list[T]:
    """Every process's value (plain Python), in the order of their ranks; every process gets them all."""
    if not is_distributed():
        return [value]
    gathered: list[Any] = [None] * get_world_size()
    with waiting():
        torch.distributed.all_gather_object(gathered, value, group=_group(torch.device("cpu")))
    return gathered


def over_all_rows(
    function: Callable[..., torch.Tensor], *columns: torch.Tensor, everywhere: bool = True
) -> torch.Tensor:
    """function(*columns) of the rows (N, ...) of all processes, in the order of their ranks, on the CPU; of what it
    gives, this process's rows. everywhere: every process calls it, else each is alone with its rows."""
    found = gather_objects([column.tolist() for column in columns]) if everywhere else [[c.tolist() for c in columns]]
    everyone = [
        torch.tensor([value for part in found for value in part[place]], dtype=column.dtype)
        for place, column in enumerate(columns)
    ]
    start = sum(len(part[0]) for part in found[: get_rank() if everywhere else 0])
    return function(*everyone)[start : start + len(columns[0])]


def broadcast_object(value: T) -> T:
    """The main process's value (plain Python), in every process."""
    if not is_distributed():
        return value
    holder: list[Any] = [value]
    with waiting():
        torch.distributed.broadcast_object_list(holder, src=0, group=_group(torch.device("cpu")))
    return holder[0]


def barrier() -> None:
    """Wait for every process."""
    if is_distributed():
        with waiting():
            torch.distributed.barrier(group=_group(torch.device("cpu")))


def any_process(flag: bool) -> bool:
    """Whether any process says so: how one process's signal becomes everyone's decision."""
    return any(gather_objects(flag))


def leave_process_group() -> None:
    """Part from the other processes, where any were met."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        while _watch:
            _watch.pop().leave()
        _own_group.clear()
        torch.distributed.destroy_process_group()
