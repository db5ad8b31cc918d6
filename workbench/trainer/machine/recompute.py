"""Gradient checkpointing: a layer's activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator

import torch

from workbench.errors import DefinitionError


class Recompute:
    """Turns it on in a model, which must offer gradient_checkpointing_enable as transformers' do. Raises
    DefinitionError."""

    def __init__(self, model: torch.nn.Module) -> None:
        enable = getattr(model, "gradient_checkpointing_enable", None)
        try:
            if not callable(enable):
                raise ValueError("it has no gradient_checkpointing_enable")
            with warnings.catch_warnings():
                # transformers is renaming it; the new name is not in every release that we run on.
                warnings.filterwarnings("ignore", ".*gradient_checkpointing_enable. is deprecated", FutureWarning)
                enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except ValueError as error:
            remedy = "set gradient_checkpointing: false, or lower micro_batch_rows"
            found = f"{type(model).__name__} cannot do it ({error})"
            raise DefinitionError(f"gradient_checkpointing: {found}; {remedy}") from error
        self._layers = _layers_by_mode(model)
        if not model.training:
            _silence_own_dropout(self._layers)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Around a step's forward and backward.

        transformers' layers act on it in training mode alone, and most trainers keep the model in eval mode. Only the
        layers' own flag is raised, and only here: what is inside them (dropout, attention) keeps its mode.
        """
        modes = [layer.training for layer in self._layers]
        try:
            for layer in self._layers:
                layer.training = True
            yield
        finally:
            for layer, mode in zip(self._layers, modes, strict=True):
                layer.training = mode


def _layers_by_mode(model: torch.nn.Module) -> list[torch.nn.Module]:
    """transformers' layers, which look at their mode; our own Llama goes by whether gradients are wanted."""
    layers = sys.modules.get("transformers.modeling_layers")  # absent: no model here is of transformers
    if layers is None:
        return []
    return [module for module in model.modules() if isinstance(module, layers.GradientCheckpointingLayer)]


def _silence_own_dropout(layers: list[torch.nn.Module]) -> None:
    """A few layers (OPT's, BioGPT's) apply dropout themselves, by their own flag: in eval mode it has to stay off."""
    for layer in layers:
        for name, value in vars(layer).items():
            if "dropout" in name and isinstance(value, float):
                setattr(layer, name, 0.0)
