"""What a trainer shows of its parts, to its users and to the methods derived from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from workbench.models.flops import ModelFlops
from workbench.models.reference import FrozenReference
from workbench.trainer.loop.charges import Charges
from workbench.trainer.loop.descent import Descent
from workbench.trainer.loop.early_stopping import Stopper
from workbench.trainer.loop.examination import Evaluator, Examination
from workbench.trainer.loop.feed import Feed
from workbench.trainer.loop.gradient import Gradient
from workbench.trainer.loop.guard import Guard
from workbench.trainer.loop.updates import Updates
from workbench.trainer.machine.network import Network
from workbench.trainer.machine.precision import Precision
from workbench.trainer.records.costs import Costs
from workbench.trainer.records.health import Health
from workbench.trainer.records.output_folder import OutputFolder
from workbench.trainer.records.progress import Progress
from workbench.trainer.records.state import RunState


class TrainerFace:
    """A trainer's parts, and properties that read them; what changes is changed in the part."""

    settings: Any
    network: Network
    reference: FrozenReference
    descent: Descent
    feed: Feed
    gradient: Gradient
    guard: Guard
    examination: Examination
    health: Health
    state: RunState
    records: OutputFolder
    progress: Progress
    charges: Charges

    # The job and the device.

    @property
    def rank(self) -> int:
        """This process's number in the job; 0 alone."""
        return self.network.rank

    @property
    def world_size(self) -> int:
        """The job's number of processes; 1 alone."""
        return self.network.world_size

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and saves."""
        return self.network.is_main

    @property
    def is_distributed(self) -> bool:
        """Whether this process is one of several of a job."""
        return self.network.is_distributed

    use_ddp = is_distributed

    @property
    def device(self) -> torch.device:
        """The device on which this process trains."""
        return self.network.device

    # What is trained, and how.

    @property
    def model(self) -> torch.nn.Module:
        """What a forward calls: all that is trained, wrapped where several processes train it."""
        return self.network.model

    @property
    def unwrapped_model(self) -> torch.nn.Module:
        """All that is trained: the policy, and a critic where there is one."""
        return self.network.module

    @property
    def policy(self) -> torch.nn.Module:
        """The language model that learns, and is sampled from."""
        return self._policy_of(self.network.module)

    def _policy_of(self, trained: torch.nn.Module) -> torch.nn.Module:
        """The language model within what _set_up_model returned."""
        return trained

    @property
    def result(self) -> torch.nn.Module:
        """What the run leaves, and is evaluated and saved: the policy, unless the method makes something else of it."""
        return self.policy

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The one that was given, or that settings name."""
        return self.descent.optimizer

    @property
    def scheduler(self) -> torch.optim.lr_scheduler.LRScheduler:
        """The one that was given, or that settings name."""
        return self.descent.scheduler

    @property
    def precision(self) -> Precision:
        """The autocast of every forward."""
        return self.descent.precision

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that the optimiser moves."""
        return self.descent.parameters

    @property
    def micro_batch_rows(self) -> int | None:
        """Rows of a forward and backward: as asked for, or fewer where memory was short; None takes a whole batch."""
        return self.gradient.micro_batch_rows

    @property
    def ref_model(self) -> torch.nn.Module | None:
        """The reference as it was given."""
        return self.reference.given

    # What it learns from.

    @property
    def train_loader(self) -> Iterable[Any]:
        """The loader as it was given."""
        return self.feed.loader

    @property
    def batches_taken(self) -> int:
        """The loader's batches that were taken so far."""
        return self.feed.taken

    @property
    def updates(self) -> Updates:
        """What is still to be learned from, and the method's own state."""
        return self.feed.updates

    # What it is judged by.

    @property
    def val_loader(self) -> Iterable[Any] | None:
        """The held-out batches as they were given."""
        return self.examination.val_loader

    @property
    def evaluators(self) -> list[Evaluator]:
        """Functions of the result and the step that give held-out metrics."""
        return self.examination.evaluators

    @property
    def stopper(self) -> Stopper | None:
        """Early stopping, where settings ask for it."""
        return self.examination.stopper

    # Where the run is.

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run, unless something ends it before."""
        return self.progress.num_steps

    @property
    def step(self) -> int:
        """Optimiser steps that were made."""
        return self.state.step

    @property
    def costs(self) -> Costs:
        """What the run has spent so far, over all processes."""
        return self.state.costs

    @property
    def flops(self) -> ModelFlops:
        """The FLOPs of the policy's passes."""
        return self.charges.policy

    @property
    def last_row(self) -> dict[str, Any]:
        """The metrics row that was recorded last."""
        return self.state.last_row

    @property
    def warnings(self) -> list[str]:
        """What was warned of so far, with the steps."""
        return self.state.warnings

    @property
    def incidents(self) -> list[dict[str, Any]]:
        """What went wrong, and what was done about it."""
        return self.state.incidents

    @property
    def inexact(self) -> list[str]:
        """The steps from which on the run may differ from one that was never interrupted, and why."""
        return self.state.inexact

    @property
    def stopped_by(self) -> str | None:
        """Why the run ended before its last step; None where it did not."""
        return self.state.stopped_by

    @property
    def ended(self) -> bool:
        """Whether no step follows."""
        return self.step >= self.num_steps or bool(self.stopped_by)

    @property
    def restored_best(self) -> bool:
        """Whether the model has the weights of an earlier step again, which early stopping found the best."""
        return self.state.restored_best

    @property
    def output_dir(self) -> Path | None:
        """The run's folder; None where nothing is written."""
        return self.records.path
