"""The gradient of one update: accumulated over micro-batches, which are halved where memory is short, and clipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

from workbench.errors import DivergenceError
from workbench.trainer.loop.accumulation import StepLoss
from workbench.trainer.loop.batches import Batch, num_rows, split_rows
from workbench.trainer.loop.descent import Descent
from workbench.trainer.loop.memory import is_out_of_memory
from workbench.trainer.loss import LossResult
from workbench.trainer.machine import distributed
from workbench.trainer.machine.network import Network
from workbench.trainer.settings import TrainerSettings

T = TypeVar("T")


class Gradient:
    """recomputing: the context of a forward and backward that compute activations again. listening: that of each
    attempt, whose calls are counted. note: tells of an incident, by what happened and what was done about it."""

    def __init__(
        self,
        network: Network,
        descent: Descent,
        settings: TrainerSettings,
        *,
        recomputing: Callable[[], AbstractContextManager[Any]],
        listening: Callable[[], AbstractContextManager[Any]],
        note: Callable[[str, str], None],
    ) -> None:
        self._network, self._descent, self._note = network, descent, note
        self._recomputing, self._listening = recomputing, listening
        self._asked, self._limit = settings.micro_batch_rows, settings.max_grad_norm or math.inf
        self.micro_batch_rows = settings.micro_batch_rows
        """Rows of a forward and backward: as many as were asked for, or as few as fit; None takes the whole batch."""

    def compute(
        self,
        batch: Batch,
        begin: Callable[[], dict[str, float] | None],
        loss_of: Callable[[Batch], LossResult],
    ) -> dict[str, float]:
        """The whole step's gradients, clipped; its loss, metrics and gradient norm over all processes.

        begin: called at each attempt; gives the units of the loss's terms, or None where they are known only after the
        forward, which does for a step of one micro-batch, and for terms that share one unit. loss_of: a
        micro-batch's loss.
        """

        def accumulate(micro_batches: Sequence[Batch]) -> dict[str, float]:
            self._descent.zero_grad()
            loss, units = StepLoss(), begin()
            if units is not None:
                loss.know(units)
            is_whole = units is None and not distributed.any_process(len(micro_batches) > 1)
            with self._listening():
                for index, micro_batch in enumerate(micro_batches, 1):
                    distributed.progress()
                    synced = index == len(micro_batches)
                    with nullcontext() if synced else self._network.no_sync(), self._recomputing():
                        result = loss_of(micro_batch)
                        if is_whole:
                            loss.know(result.units, beforehand=False)
                        self._backward(loss.add(result))
            return loss.finish(self._descent.parameters)

        row = self.within_memory(batch, accumulate)
        self._descent.precision.unscale(self._descent.optimizer)
        row["grad_norm"] = self._network.clip(self._descent.parameters, self._limit)
        row["learning_rate"] = self._descent.learning_rate
        return row

    def _backward(self, summed: torch.Tensor) -> None:
        with distributed.waiting():
            self._descent.precision.backward(summed)

    def within_memory(self, batch: Batch, compute: Callable[[Sequence[Batch]], T]) -> T:
        """compute(micro-batches); as long as they do not fit, again with half of their rows, and so with all batches
        that follow. Raises DivergenceError where a single row does not fit, or among several processes, which would
        have to agree."""
        while True:
            try:
                return compute(list(split_rows(batch, self.micro_batch_rows)))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                rows = int(min(self.micro_batch_rows or math.inf, num_rows(batch)))
                if rows == 1 or self._network.is_distributed:
                    remedy = "shorten the rows or take a smaller model" if rows == 1 else "lower micro_batch_rows"
                    raise DivergenceError(f"out of memory at micro_batch_rows {rows}: {remedy}") from error
            # This is outside of the handler, whose error would keep alive what did not fit.
            self.micro_batch_rows = math.ceil(rows / 2)
            self._note(f"out of memory at micro_batch_rows {rows}", f"micro_batch_rows {self.micro_batch_rows}")
            if self._network.device.type == "cuda":
                torch.cuda.empty_cache()

    def state_dict(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return {"micro_batch_rows": self.micro_batch_rows, "asked": self._asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes as many rows as are asked for now, or fewer where memory ran out before."""
        halved = state["micro_batch_rows"] if state["micro_batch_rows"] != state["asked"] else None
        self.micro_batch_rows = min((rows for rows in (self._asked, halved) if rows is not None), default=None)
