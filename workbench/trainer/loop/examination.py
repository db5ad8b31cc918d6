"""What judges a run beside its training loss: held-out batches, evaluators, early stopping and its best weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from workbench.errors import DataError
from workbench.trainer import arguments
from workbench.trainer.loop.accumulation import StepLoss
from workbench.trainer.loop.early_stopping import Stopper
from workbench.trainer.loop.ema import AveragedWeights
from workbench.trainer.loss import LossResult
from workbench.trainer.machine import distributed
from workbench.trainer.machine.network import Network
from workbench.trainer.records.output_folder import OutputFolder
from workbench.trainer.settings import EarlyStopping
from workbench.trainer.tensors import load_model_tensors

Evaluator = Callable[[torch.nn.Module, int], dict[str, float]]


class Examination:
    """Measures the model, and follows its evaluations. Where there is no folder, whose checkpoints hold the best
    weights, it keeps them itself."""

    def __init__(
        self,
        val_loader: Iterable[Any] | None,
        evaluators: Sequence[Evaluator],
        stopping: EarlyStopping | None,
        network: Network,
        records: OutputFolder,
    ) -> None:
        self.val_loader, self.evaluators = val_loader, list(evaluators)
        self.stopper = Stopper(stopping) if stopping else None
        self.batch_number = 0
        """The number of val_loader's batch that is looked at, counted from 1; 0 where none is."""
        self.ema: AveragedWeights | None = None
        """The average that is measured and left instead of the weights, where there is one."""
        self._network, self._records = network, records
        self._kept: dict[str, torch.Tensor] = {}

    @property
    def measures(self) -> bool:
        """Whether there is anything to evaluate by."""
        return self.val_loader is not None or bool(self.evaluators)

    def held_out_loss(self, losses_of: Callable[[Any], Iterable[LossResult]]) -> dict[str, float]:
        """ "eval/loss" and the trainer's metrics over val_loader, where there is one. losses_of: of one of its batches.
        Raises DataError where it gives none."""
        if self.val_loader is None:
            return {}
        loss = StepLoss()
        try:
            for batch in self.val_loader:
                self.batch_number += 1
                for result in losses_of(batch):
                    loss.add(result)
            if not distributed.any_process(self.batch_number > 0):
                raise DataError("val_loader gives no batch; a generator can be read only once: pass a list or a loader")
        finally:
            self.batch_number = 0
        return {f"eval/{name}": value for name, value in loss.finish().items()}

    def ask(
        self, model: torch.nn.Module, step: int, autocast: Callable[[], AbstractContextManager[Any]]
    ) -> dict[str, float]:
        """Every evaluator's metrics, in the main process; nothing in the others."""
        metrics: dict[str, float] = {}
        for evaluator in self.evaluators if self._network.is_main else ():
            with autocast():
                metrics |= arguments.checked_metrics(evaluator(model, step), evaluator)
        return metrics

    def observe(self, step: int, held_out: dict[str, float]) -> bool:
        """Let early stopping see an evaluation; whether it is the best so far."""
        if not self.stopper or not held_out:
            return False
        improved = self.stopper.observe(step, held_out)
        if improved and self._records.path is None:
            weights = self.ema.shadow if self.ema else self._network.state_dict()
            self._kept = {name: value.detach().clone() for name, value in weights.items()}
        return improved

    @property
    def should_stop(self) -> bool:
        """Whether early stopping ends the run."""
        return self.stopper is not None and self.stopper.should_stop

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation so far, where early stopping has seen one."""
        best = self.stopper.state if self.stopper else None
        return best.best_step if best is not None and best.best_value is not None else None

    def restore_best(self, step: int) -> bool:
        """Puts the weights that a run leaves into the model at its end: early stopping's best, or the averaged ones.
        Returns whether they are those of an earlier step."""
        best, weights = self.best_step, self.ema.shadow if self.ema else None
        is_earlier = best is not None and best != step
        if best is not None and is_earlier:
            group = "ema" if self.ema else "model"
            weights = self._records.read_tensors(best, group) if self._records.path else self._kept
        if weights is not None:
            load_model_tensors(self._network.module, weights)
            if self.ema:
                self.ema.load_state_dict(weights)
        return is_earlier

    def state_dict(self) -> dict[str, Any]:
        """JSON values for a checkpoint: early stopping's."""
        return self.stopper.state_dict() if self.stopper else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror of state_dict."""
        if self.stopper and state:
            self.stopper.load_state_dict(state)
