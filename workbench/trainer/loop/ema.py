"""An exponential moving average of the weights: it is evaluated and saved, and training goes on from the raw ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from workbench.trainer.tensors import load_model_tensors, model_tensors


class AveragedWeights:
    """shadow_t = d_t shadow_(t-1) + (1 - d_t) weights_t from the start's weights, d_t = min(decay, (1 + t)/(10 + t)).

    The ramp lets the average leave the start quickly (TensorFlow's ExponentialMovingAverage has it as num_updates; it
    stands for a bias correction, which an average that begins at real weights has no need of). t counts the steps
    done. Of trainable parameters alone, in float32 or wider. Every process holds the same average.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self._model = model
        self.shadow: dict[str, torch.Tensor] = {}
        self.load_state_dict(model_tensors(model))

    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 1)."""
        weights = [parameter.detach() for parameter in model_tensors(self._model).values()]
        shadow = list(self.shadow.values())
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(shadow, [w.to(s.dtype) for w, s in zip(weights, shadow, strict=True)], share)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averages, for a checkpoint."""
        return self.shadow

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from these weights."""
        parameters = model_tensors(self._model)
        self.shadow = {
            name: state[name].detach().to(parameter.device, _shadow_dtype(parameter), copy=True)
            for name, parameter in parameters.items()
        }

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model with the averaged weights; afterwards it has the raw ones again, bit for bit."""
        raw = {name: parameter.detach().clone() for name, parameter in model_tensors(self._model).items()}
        try:
            load_model_tensors(self._model, self.shadow)
            yield
        finally:
            load_model_tensors(self._model, raw)


def _shadow_dtype(parameter: torch.Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)
