"""Mixed precision: which dtype, and the autocast and scaler that go with it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from workbench.processor import cpu_name
from workbench.trainer.machine import distributed

AUTOCAST_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


class Precision:
    """Autocast for the forward pass, and a GradScaler where fp16 needs one."""

    def __init__(self, name: str, device: torch.device) -> None:
        """name: float32, bf16 or fp16 (resolve "fastest" before)."""
        self.name = name
        self._device_type = device.type
        self._scaler: torch.amp.GradScaler | None = torch.amp.GradScaler(device.type) if name == "fp16" else None

    @property
    def is_half(self) -> bool:
        """Whether products are computed in half precision."""
        return self.name in AUTOCAST_DTYPES

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of every forward pass."""
        if not self.is_half:
            return contextlib.nullcontext()
        return torch.autocast(self._device_type, dtype=getattr(torch, AUTOCAST_DTYPES[self.name]))

    def backward(self, loss: torch.Tensor) -> None:
        """Backward through the scaled loss."""
        (self._scaler.scale(loss) if self._scaler else loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Gradients in true units, ready to be clipped."""
        if self._scaler:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimiser's step; fp16 skips it when a gradient overflowed, and lowers the scale."""
        if self._scaler:
            self._scaler.step(optimizer)
            self._scaler.update()
        else:
            optimizer.step()

    def skip(self) -> None:
        """Instead of step: leave the parameters as they are."""
        if self._scaler:
            self._scaler.update()

    @property
    def expects_overflow(self) -> bool:
        """Whether a non-finite gradient may be an overflow that a lower scale mends; at a scale below 1 it is not."""
        return self._scaler is not None and self._scaler.get_scale() >= 1.0

    def state_dict(self) -> dict[str, Any]:
        return self._scaler.state_dict() if self._scaler else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._scaler:
            # A new scaler is made: the old one may stand between unscale and step of a step that was thrown away.
            self._scaler = torch.amp.GradScaler(self._device_type)
            self._scaler.load_state_dict(state)


def resolve_precision(wanted: str, device: torch.device, model: torch.nn.Module) -> str:
    """The precision to use: as wanted, or for "fastest" bf16 on a GPU that has it, else fp16; on a CPU by probe.

    One answer for all processes: their own timings might not agree.
    """
    if wanted != "fastest":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    # The model's width decides whether casting pays.
    width = max((parameter.shape[-1] for parameter in model.parameters() if parameter.ndim >= 2), default=1)
    found = _fastest_on_cpu(width, torch.get_num_threads()) if distributed.is_main() else ""
    return distributed.broadcast_object(found)


def _fastest_on_cpu(width: int, threads: int) -> str:
    """Timed once per machine, torch version, width and thread count, and remembered in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "workbench" / "precision.json"
    key = f"{cpu_name()} torch {torch.__version__} width {width} threads {threads}"
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = measure_cpu_precision(width)
        with contextlib.suppress(OSError):  # a read-only home only means that the probe runs again
            cache.parent.mkdir(parents=True, exist_ok=True)
            partial = cache.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(known, indent=1, sort_keys=True))
            partial.rename(cache)
    seconds = known[key]
    return "bf16" if seconds["bf16"] < 0.9 * seconds["float32"] else "float32"


def measure_cpu_precision(width: int, rows: int = 512, repeats: int = 5) -> dict[str, float]:
    """Seconds of a forward and backward through a feed-forward block of this width, in each precision (best of 5)."""
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(4 * width, width, generator=generator).mul_(width**-0.5).requires_grad_()
    down = torch.randn(width, 4 * width, generator=generator).mul_(width**-0.5).requires_grad_()
    inputs = torch.randn(rows, width, generator=generator)
    seconds = {}
    for name in ("float32", "bf16"):
        precision = Precision(name, torch.device("cpu"))
        timings = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            with precision.autocast():
                hidden = torch.nn.functional.silu(torch.nn.functional.linear(inputs, up))
                output = torch.nn.functional.linear(hidden, down)
            output.float().square().sum().backward()
            timings.append(time.perf_counter() - started)
        seconds[name] = min(timings[1:])
    return seconds
