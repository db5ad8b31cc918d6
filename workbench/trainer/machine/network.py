"""The model that is trained, as the processes of a job hold it: whole in one process, or a copy in each under DDP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from workbench.trainer.machine import distributed
from workbench.trainer.tensors import load_model_tensors, model_tensors


class Network:
    """One process's; network_of chooses the class that fits the job.

    module: all that is trained, as it is. model: what a forward calls, which a class may wrap around it.
    """

    model: torch.nn.Module
    module: torch.nn.Module

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.world_size = distributed.get_rank(), distributed.get_world_size()
        distributed.join_process_group(device)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and saves."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether this process is one of several of a job."""
        return self.world_size > 1

    def hold(self, module: torch.nn.Module) -> None:
        """Take the module that is trained, on the device by now."""
        self.module, self.model = module, self._wrapped(module)

    def _wrapped(self, module: torch.nn.Module) -> torch.nn.Module:
        return module

    @contextlib.contextmanager
    def unwrapped(self) -> Iterator[torch.nn.Module]:
        """The module alone is `model` within: a wrapper's forward may wait for the other processes, which have as many
        rows only in training."""
        wrapped, self.model = self.model, self.module
        try:
            yield self.module
        finally:
            self.model = wrapped

    def no_sync(self) -> contextlib.AbstractContextManager[Any]:
        """Keeps the gradients of a backward within this process: for all micro-batches of a step but the last."""
        return contextlib.nullcontext()

    def clip(self, parameters: Sequence[torch.nn.Parameter], limit: float) -> float:
        """Scale the gradients down to a global norm; the norm that they had."""
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The whole weights that training changes, for a checkpoint."""
        return model_tensors(self.module)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """The mirror of state_dict. Raises CheckpointError when they are of another model."""
        load_model_tensors(self.module, state)


class ReplicatedNetwork(Network):
    """A copy in each process, whose gradients are averaged over them (DistributedDataParallel)."""

    def _wrapped(self, module: torch.nn.Module) -> torch.nn.Module:
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(module, device_ids=device_ids)

    def no_sync(self) -> contextlib.AbstractContextManager[Any]:
        """DDP's own."""
        assert isinstance(self.model, torch.nn.parallel.DistributedDataParallel)
        return self.model.no_sync()


def network_of(device: torch.device) -> Network:
    """The network of the job that the environment tells of."""
    return (ReplicatedNetwork if distributed.is_distributed() else Network)(device)
