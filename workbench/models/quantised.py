"""Frozen weights in 4 bits (NF4, Dettmers et al. 2023, arXiv 2305.14314) by bitsandbytes, on a GPU and on a CPU.

Its 8 bits are not offered: there a forward in evaluation rounds activations too, and one in training does not, so a
policy and its reference would differ by more than training moves them.
"""

from __future__ import annotations

from typing import Any

import torch

from workbench.errors import ModelError
from workbench.models.passes import output_head


def quantise_linear_layers(model: torch.nn.Module) -> None:
    """Put a frozen 4-bit layer in the place of every linear layer but the output head, one after the other.

    The weights are quantised on the CPU, and so the same whatever the device; scales are quantised too.
    """
    bitsandbytes = _bitsandbytes()
    head = output_head(model)
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    if not linear:
        raise ModelError("lora.quantise: the model has no linear layer that bitsandbytes can hold in 4 bits")
    for name, layer in linear:
        frozen = bitsandbytes.nn.Linear4bit(
            layer.in_features, layer.out_features, bias=False, quant_type="nf4", compress_statistics=True
        )
        frozen.weight = bitsandbytes.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=frozen
        )
        frozen.bias = layer.bias
        # In evaluation bitsandbytes would repack the weights for another kernel, which has no gradient and rounds more.
        frozen.support_avx512bf16_for_cpu = False
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, frozen.to("cpu"))


def plain_weight(layer: Any) -> torch.Tensor:
    """A linear layer's weight as it multiplies, dequantised where it is held in 4 bits."""
    state = getattr(layer.weight, "quant_state", None)
    return layer.weight if state is None else _bitsandbytes().functional.dequantize_4bit(layer.weight.data, state)


def num_weights(parameter: torch.Tensor) -> int:
    """Numbers that a parameter stands for: two in each byte of a 4-bit one."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def _bitsandbytes() -> Any:
    import logging
    import warnings

    # On a CPU it asks, each time it is loaded, for kernels that are not used here.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import bitsandbytes
    except ImportError as error:
        raise ModelError(
            "lora.quantise needs bitsandbytes: install the workbench with its extra, workbench[quantise], or leave "
            "quantise out"
        ) from error
    return bitsandbytes
