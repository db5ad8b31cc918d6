"""What a trainer gives to the loop: three methods that it must have, and hooks with their defaults."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Sized
from typing import Any

import torch

from workbench.errors import CheckpointError, DefinitionError
from workbench.models.flops import Work
from workbench.models.outputs import computes_padding
from workbench.trainer.batches import Batch, EpochLoader, num_rows, split_rows
from workbench.trainer.loss import LossResult


class TrainerHooks(abc.ABC):
    """The part of BaseTrainer that subclasses fill in; none of it is called by users."""

    settings: Any
    train_loader: Iterable[Any]
    micro_batch_rows: int | None

    @property
    @abc.abstractmethod
    def policy(self) -> torch.nn.Module:
        """The language model: what is evaluated, sampled from and saved."""

    @abc.abstractmethod
    def _prepare_batch(self, batch: Any) -> Batch:
        """The loader's batch checked and on this device."""

    @abc.abstractmethod
    def _forward(self, batch: Batch) -> Any:
        """Outputs of `self.model` (DDP included) on a micro-batch."""

    @abc.abstractmethod
    def _compute_loss(self, outputs: Any, batch: Batch) -> LossResult | torch.Tensor:
        """Summed terms with their units and metrics; a bare scalar is the mean over the micro-batch's rows."""

    def _set_up_model(self, model: torch.nn.Module) -> torch.nn.Module:
        """Dropout, references and what is trained, before the optimiser is made; by default dropout is off (eval mode).

        Returns the module to train: the model itself, or one that holds it (see _policy_of).
        """
        return model.eval()

    def _plan_steps(self) -> int:
        """Optimiser steps: as many as the settings say, or as the epochs have batches."""
        if self.settings.steps is not None:
            return self.settings.steps
        if isinstance(self.train_loader, EpochLoader):
            return self.train_loader.end_after(self.settings.epochs, self._smallest_share)
        if not isinstance(self.train_loader, Sized):
            raise DefinitionError("steps is absent and train_loader has no length to count epochs by; set steps")
        return math.ceil(self.settings.epochs * len(self.train_loader))

    @property
    def _smallest_share(self) -> int:
        """Rows of a loader's batch that each process needs."""
        return 1

    def _policy_of(self, trained: torch.nn.Module) -> torch.nn.Module:
        """The language model within what _set_up_model returned."""
        return trained

    def _count_units(self, batch: Batch) -> dict[str, float] | None:
        """Each term's units in this process's whole step; None when they are known only after the forward."""
        return None

    def _sequence_lengths(self, batch: Batch) -> torch.Tensor:
        """Real tokens of each sequence that the step computes, padding excluded."""
        if "attention_mask" in batch:
            return batch["attention_mask"].sum(-1)
        first = next(iter(batch.values()))
        return torch.full((num_rows(batch),), math.prod(first.shape[1:2]), device=first.device)

    def _work(self, batch: Batch) -> Work:
        """What a pass over an update batch computes; by default its sequences, projected everywhere."""
        return Work.of_rows(self._sequence_lengths(batch), model=self.policy)

    def _work_as_cut(self, batch: Batch, work_of: Callable[[Batch], Work]) -> Work:
        """The same in micro-batches where those decide how much padding is computed: in those that were asked for, so
        that the charge does not depend on the memory of the machine."""
        if not computes_padding(self.policy, int(self._sequence_lengths(batch).max())):
            return work_of(batch)
        return Work.total(work_of(part) for part in split_rows(batch, self.settings.micro_batch_rows))

    def _count_tokens(self, batch: Batch) -> int:
        """Tokens of a batch, for throughput only."""
        return int(self._sequence_lengths(batch).sum())

    def _make_update_batches(self, batch: Batch) -> Iterable[Batch]:
        """The batches of the optimiser steps that one loader batch gives: rollouts, passes, minibatches."""
        return [batch]

    def _make_validation_batches(self, batch: Batch) -> Iterable[Batch]:
        """The same for a batch of val_loader, whose loss alone is wanted; must leave the trainer as it is."""
        return [batch]

    def _check_gradient(self, row: dict[str, float]) -> dict[str, float]:
        """The whole step's row (the same in every process) as it is to be recorded; may raise before the update."""
        return row

    def _take_completions(self) -> list[dict[str, Any]]:
        """Rows of completions.jsonl that the committed step learned from first, without their step; JSON values."""
        return []

    def _watch(self, row: dict[str, Any]) -> Iterable[str]:
        """Warnings, each with its remedy, that the recorded row gives rise to; raises DivergenceError to stop."""
        return ()

    def _get_extra_config_info(self) -> dict[str, Any]:
        return {}

    def _get_extra_log_info(self, batch: Batch) -> str:
        return ""

    def _get_extra_checkpoint_state(self) -> dict[str, Any]:
        return {}

    def _load_extra_checkpoint_state(self, state: dict[str, Any]) -> None:
        if state:
            raise CheckpointError(f"the checkpoint holds state this trainer does not know: {', '.join(sorted(state))}")
