"""Model and optimiser to and from flat tensors, for checkpoints that hold safetensors and JSON alone."""

from __future__ import annotations

from typing import Any

import torch

from workbench.errors import CheckpointError


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What training changes: trainable parameters by name. Frozen weights come from the start, not the checkpoint."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def load_model_tensors(model: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy saved parameters in place. CheckpointError when names or shapes differ."""
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


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The optimiser's tensors as "<parameter index>.<name>", and the rest (groups, plain numbers) as JSON values."""
    state = optimizer.state_dict()
    tensors, scalars = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                scalars[f"{index}.{key}"] = value
    return tensors, {"groups": state["param_groups"], "scalars": scalars}


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], rest: dict[str, Any]
) -> None:
    """Put the optimiser back exactly as optimizer_tensors found it. CheckpointError when it is of another kind."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *rest["scalars"].items()]:
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    groups = [{**group, "betas": tuple(group["betas"])} if "betas" in group else group for group in rest["groups"]]
    own = [set(group) for group in optimizer.state_dict()["param_groups"]]
    if [set(group) for group in groups] != own or [len(g["params"]) for g in groups] != [
        len(g["params"]) for g in optimizer.param_groups
    ]:
        raise CheckpointError("the checkpoint is of another optimizer: its parameter groups differ; use the same one")
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def on_cpu(batches: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """Copies that share no memory (batches may be views of one rollout, or one batch taken twice)."""
    return [{key: value.detach().cpu().clone() for key, value in batch.items()} for batch in batches]


def batches_to_tensors(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Update batches not yet used, as "<position>.<key>", so that a half-used rollout resumes exactly."""
    return {f"{position}.{key}": value for position, batch in enumerate(batches) for key, value in batch.items()}


def batches_from_tensors(tensors: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The mirror of batches_to_tensors."""
    batches: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        position, key = name.split(".", 1)
        batches.setdefault(int(position), {})[key] = value
    return [batches[position] for position in sorted(batches)]
