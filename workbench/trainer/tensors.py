"""Model and optimiser to and from flat tensors, for checkpoints that hold safetensors and JSON alone."""

from __future__ import annotations

from typing import Any

import torch

from workbench.errors import CheckpointError


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What training changes: trainable parameters by name. Frozen weights come from the start, not the checkpoint."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_model_tensors(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy saved parameters in place. Raises CheckpointError when names or shapes differ."""
    own = model_tensors(model)
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())
        raise CheckpointError(f"the checkpoint is of another model: {len(odd)} parameters differ, such as {odd[0]}")
    for name, parameter in own.items():
        if parameter.shape != tensors[name].shape:
            found, wanted = tuple(tensors[name].shape), tuple(parameter.shape)
            raise CheckpointError(f"the checkpoint's {name} has shape {found}; the model's has {wanted}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


class OptimizerState:
    """An optimiser's whole state as one mapping: tensors as "<parameter index>.<name>", the rest as JSON values."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name; "groups" and "scalars" are JSON values."""
        state = self._optimizer.state_dict()
        entries = {f"{i}.{key}": value for i, own in state["state"].items() for key, value in own.items()}
        tensors = {name: value for name, value in entries.items() if isinstance(value, torch.Tensor)}
        scalars = {name: value for name, value in entries.items() if name not in tensors}
        return {**tensors, "groups": state["param_groups"], "scalars": scalars}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the optimiser back exactly as it was. Raises CheckpointError when it is of another kind."""
        rest = dict(state)
        saved, scalars = rest.pop("groups"), rest.pop("scalars")
        entries: dict[int, dict[str, Any]] = {}
        for name, value in [*rest.items(), *scalars.items()]:
            index, key = name.split(".", 1)
            entries.setdefault(int(index), {})[key] = value
        groups = [{**group, "betas": tuple(group["betas"])} if "betas" in group else group for group in saved]
        own = [set(group) for group in self._optimizer.state_dict()["param_groups"]]
        if [set(group) for group in groups] != own or [len(g["params"]) for g in groups] != [
            len(g["params"]) for g in self._optimizer.param_groups
        ]:
            raise CheckpointError(
                "the checkpoint is of another optimizer: its parameter groups differ; use the same one"
            )
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})
