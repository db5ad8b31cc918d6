"""Linear layers as sampling multiplies with them: many steps with few rows each, and weights that do not change.

On a CPU the weights of layers with one input are laid side by side and reordered once into the blocks that oneDNN's
kernels read (64 rows of a 256 x 1,024 layer on an AMD EPYC: float32 3 to 4 times faster, bf16 1.5 times).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PACKED_ROWS = 4
"""The least number of rows for which weights are reordered: with fewer rows they are read too seldom for it to pay."""


def is_plain(layer: nn.Module) -> bool:
    """Whether the layer is nn.Linear itself, or peft's LoRA around one: no quantised weight, no other kind of layer."""
    return type(getattr(layer, "base_layer", layer)) is nn.Linear


class JoinedLinear:
    """Plain linear layers that share their input, each one's output apart. The weights are those of now."""

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype, *, packed: bool) -> None:
        """dtype: of the product, and of its input."""
        parts = [_weights(layer, dtype) for layer in layers]
        self._sizes = [weight.shape[0] for weight, _, _ in parts]
        self._adapters = [adapters for _, _, adapters in parts]
        self._packed = packed
        self._biases: list[Tensor | None] = [bias for _, bias, _ in parts]
        self._weights: list[Any] = [weight for weight, _, _ in parts]
        if packed:
            weight = torch.cat(self._weights)
            self._weights = [torch.ops.mkldnn._reorder_linear_weight(weight)]
            self._biases = [_joined_bias(self._biases, weight)]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """x: (..., H)."""
        if self._packed:
            joined = torch.ops.mkldnn._linear_pointwise(x, self._weights[0], self._biases[0], "none", [], "")
            outputs = list(joined.split(self._sizes, -1))
        else:
            outputs = [functional.linear(x, w, b) for w, b in zip(self._weights, self._biases, strict=True)]
        for index, adapters in enumerate(self._adapters):
            for down, up in adapters:
                outputs[index] = outputs[index] + functional.linear(functional.linear(x, down), up)
        return outputs


def can_pack(device: torch.device, dtype: torch.dtype, num_rows: int) -> bool:
    """Whether the reordered weights exist here and pay."""
    if device.type != "cpu" or num_rows < PACKED_ROWS or not torch.backends.mkldnn.is_available():
        return False
    # A CPU without AVX-512 has no bf16 blocks: there the weights stay as they are.
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _weights(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None, list[tuple[Tensor, Tensor]]]:
    """Weight, bias and what its adapters multiply with: (down, up), the scale in up."""
    base = getattr(layer, "base_layer", layer)
    weight, bias = base.weight.detach(), None if base.bias is None else base.bias.detach().to(dtype)
    names = [] if base is layer or layer.disable_adapters or layer.merged else layer.active_adapters
    adapters = []
    for name in names:
        if dtype == torch.float32:
            weight = weight + layer.get_delta_weight(name).detach()
        else:
            # In half precision a small change of a weight would be rounded away; a small output is not.
            down, up = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
            adapters.append((down.to(dtype), (up * layer.scaling[name]).to(dtype)))
    return weight.to(dtype), bias, adapters


def _joined_bias(biases: Sequence[Tensor | None], weight: Tensor) -> Tensor | None:
    if all(bias is None for bias in biases):
        return None
    assert all(bias is not None for bias in biases), "layers that share an input have biases all or none"
    return torch.cat([bias for bias in biases if bias is not None]).to(weight.dtype)
