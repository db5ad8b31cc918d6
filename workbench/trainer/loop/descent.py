"""The way down: optimiser, schedule, the scaler of fp16, and the average of the weights."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any, Literal

import torch

from workbench.trainer.loop.ema import AveragedWeights
from workbench.trainer.loop.schedule import configure_scheduler
from workbench.trainer.machine.precision import Precision, resolve_precision
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.tensors import OptimizerState


class Descent:
    """Moves the weights of a model by their gradients, one step at a time. scheduler: None takes the one that
    settings name."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None,
        settings: TrainerSettings,
        num_steps: int,
        device: torch.device,
    ) -> None:
        self.optimizer = optimizer
        self.scheduler = scheduler or configure_scheduler(self.optimizer, num_steps, settings)
        self.precision = Precision(resolve_precision(settings.precision, device, model), device)
        self.ema = AveragedWeights(model, settings.ema_decay) if settings.ema_decay else None
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update, in the optimiser's first group."""
        return self.optimizer.param_groups[0]["lr"]

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """The model has the averaged weights within, where there are any."""
        return self.ema.swapped_in() if self.ema else contextlib.nullcontext()

    def zero_grad(self) -> None:
        """Begin a gradient."""
        self.optimizer.zero_grad(set_to_none=True)

    def make(self, step: int, action: Literal["update", "overflow", "skip"]) -> bool:
        """The step (counted from 1) with its update, or without (see Verdict); whether the weights moved."""
        moves = action == "update"
        if action == "skip":
            self.precision.skip()
        else:
            self.precision.step(self.optimizer)
        self.zero_grad()
        if moves and self.ema:
            self.ema.update(step)
        with contextlib.nullcontext() if moves else warnings.catch_warnings():
            if not moves:
                # torch warns when the schedule moves before the optimiser has; a skipped step counts as a step.
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            self.scheduler.step()
        return moves

    def abandon(self) -> None:
        """Forget a step that was interrupted, so that it can begin again, here or from a checkpoint."""
        self.zero_grad()
        self.precision.load_state_dict(self.precision.state_dict())

    def parts(self) -> dict[str, Any]:
        """The parts of it that have state, by name."""
        found = {"optimizer": OptimizerState(self.optimizer), "scheduler": self.scheduler, "scaler": self.precision}
        return found | ({"ema": self.ema} if self.ema else {})
