"""What the passes of a run cost: by what a trainer says of them (`_work`), or else by the calls that its models get."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, replace

import torch

from workbench.models.flops import ModelFlops, Work
from workbench.trainer.loop.batches import Batch, split_rows
from workbench.trainer.machine import distributed
from workbench.trainer.records.calls import CallMeter
from workbench.trainer.records.costs import Costs
from workbench.trainer.settings import TrainerSettings


class Charges:
    """policy: its FLOPs. meter: counts calls; None where the trainer says its work. ref_model: the reference that was
    given, which may be another model than the policy."""

    def __init__(
        self,
        policy: ModelFlops,
        meter: CallMeter | None,
        ref_model: torch.nn.Module | None,
        settings: TrainerSettings,
    ) -> None:
        self.policy, self._meter = policy, meter
        self._ref_model, self._reference = ref_model, policy if ref_model is None else None
        self._rows, self._recomputed = settings.micro_batch_rows, settings.gradient_checkpointing
        self._told = Costs()
        self.unknown = ""
        """Why calls have no FLOPs though the policy's passes have; empty where none was met so far."""

    @property
    def reference(self) -> ModelFlops:
        """The FLOPs of the reference's passes."""
        if self._reference is None:
            assert self._ref_model is not None, "without one the policy's are the reference's"
            self._reference = ModelFlops.counted_of(self._ref_model, learns=False, half=self.policy.half)
        return self._reference

    def listening(self) -> AbstractContextManager[None]:
        """Begins counting anew: all that is told while it is open, and calls where they are counted at all."""
        self._told = Costs()
        return self._meter.listening() if self._meter else nullcontext()

    def tell(self, costs: Costs) -> None:
        """Add what this process has spent, beside the calls that are counted."""
        self._told = self._told + costs

    def heard(self) -> Costs:
        """What was spent in this process since the last `listening` began: what was told, and where calls are counted
        what they cost."""
        if self._meter is None:
            return self._told
        found, reason = self._meter.costs(self.policy, recomputed=self._recomputed)
        self.unknown = self.unknown or (reason if not self.policy.uncounted else "")
        return self._told + found

    def of_update(self, batch: Batch, work_of: Callable[[Batch], Work], flops_of: Callable[[Work], float]) -> Costs:
        """What the gradient of one update batch took, over all processes, seconds apart. work_of: what a pass over a
        batch computes. flops_of: those of its forward and backward."""
        if self._meter is not None:
            return sum(distributed.gather_objects(self.heard()), start=Costs())
        own = torch.tensor(astuple(self.as_cut(batch, work_of)), dtype=torch.float64)
        work = Work(*distributed.reduce_tensor(own).tolist())
        return Costs(trained_tokens=int(work.read), flops=flops_of(work))

    def as_cut(self, batch: Batch, work_of: Callable[[Batch], Work]) -> Work:
        """What a pass over the batch computes when it is cut into the micro-batches that were asked for.

        The cut decides what padding is computed, and how often a prompt is. The micro-batches are those of the
        settings, so that the charge does not depend on the memory of the machine. The tokens read are those of the
        whole batch: no number but FLOPs depends on the cut.
        """
        whole = work_of(batch)
        return replace(Work.total(work_of(part) for part in split_rows(batch, self._rows)), read=whole.read)

    def training(self, work: Work) -> float:
        """FLOPs of the policy's forward and backward."""
        return self.policy.training(work, recomputed=self._recomputed)

    def uncounted(self, spent: Costs) -> str:
        """Why the FLOPs of a run that has spent so much are not counted, as far as that is known; empty: they are."""
        if self.policy.uncounted or not math.isnan(spent.flops):
            return self.policy.uncounted or self.unknown
        return self.unknown or "a part of what was spent before it could not be counted"
