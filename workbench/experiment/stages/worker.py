"""How a stage's process loads and runs a model: device, precision, threads."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.models.settings import LoraSettings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Worker:
    """What every process of a stage is given."""

    precision: str
    """float32, bf16 or fp16."""
    threads: int
    device: str | None = None
    """The device, as in a trainer's settings: None takes a GPU where there is one."""
    lora: LoraSettings | None = None
    """LoRA settings of the run whose frozen weights the model stands for: they are held as that run holds them."""

    @property
    def is_half(self) -> bool:
        """Whether products are computed in half precision."""
        return self.precision != "float32"

    def load(self, folder: Path) -> torch.nn.Module:
        """The folder's model, frozen, on the device."""
        from workbench.models.load import load_model
        from workbench.trainer.machine.device import training_device

        model = load_model(folder, device=str(training_device(self.device)), lora=self.lora)
        return model.eval().requires_grad_(False)

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context of every forward pass."""
        from workbench.trainer.machine.device import training_device
        from workbench.trainer.machine.precision import Precision

        return Precision(self.precision, training_device(self.device)).autocast()
