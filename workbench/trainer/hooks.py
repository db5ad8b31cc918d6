"""What a trainer gives to the loop: three methods that it must have, and hooks with their defaults."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import partial
from typing import Any, ClassVar

import torch

from workbench.errors import CheckpointError, DefinitionError, MethodError
from workbench.models.flops import ModelFlops, Work
from workbench.models.told import heard_by
from workbench.trainer.arguments import source_of
from workbench.trainer.batch_format import with_batch
from workbench.trainer.face import TrainerFace
from workbench.trainer.loop.batch_check import BatchCheck
from workbench.trainer.loop.batches import Batch, EpochLoader, num_rows
from workbench.trainer.loop.sources import SOURCE
from workbench.trainer.loop.updates import Updates
from workbench.trainer.loss import LossResult, as_result
from workbench.trainer.machine.device import seed_step
from workbench.trainer.records.costs import Costs, refuse_uncounted


class TrainerHooks(TrainerFace, abc.ABC):
    """The part of BaseTrainer that subclasses fill in; none of it is called by users."""

    unread_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments of the constructor that this class, but none derived from it, refuses: nothing here reads them."""
    _batch_check: BatchCheck | None = None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        settings_class = getattr(cls, "settings_class", None)
        if settings_class is not None and settings_class.batch is not None:
            cls.__doc__ = with_batch(vars(cls).get("__doc__"), settings_class.batch)

    def _checked(self, batch: Any) -> Batch:
        """The loader's batch as settings.batch says that it is, on this device. DataError."""
        if self._batch_check is None:
            if self.settings.batch is None:
                raise MethodError(
                    f"_checked needs the keys of the batches; write `batch = ROWS` in {type(self.settings).__name__}, "
                    "or PAIRS or PROMPTS (of workbench.trainer.batch_format), or check them in _prepare_batch yourself"
                )
            models = (self.policy, self.ref_model)
            self._batch_check = BatchCheck.of(type(self).__name__, self.settings.batch, *models)
        return self._batch_check(batch, self._batch_name, self.device)

    def _findings(self) -> list[str]:
        """Warnings of keys of the batches that nothing reads, and of costs that are not counted, each given once."""
        keys = self._batch_check.unread if self._batch_check is not None else ()
        found = [f"batches have keys that nothing reads: {', '.join(keys)}"] if keys else []
        found += [f"FLOPs are not counted: {self.charges.unknown}"] if self.charges.unknown else []
        return [text for text in found if not any(text in warning for warning in self.warnings)]

    @property
    def _batch_name(self) -> str:
        """What messages call the loader's batch that is being prepared."""
        number = self.examination.batch_number
        return f"val_loader's batch {number}" if number else f"batch {self._batch_number}"

    @property
    def _batch_number(self) -> int:
        """The number of the train_loader's batch that is being prepared, counted from 1."""
        return self.feed.number

    @abc.abstractmethod
    def _prepare_batch(self, batch: Any) -> Batch:
        """The loader's batch checked and on this device."""

    @abc.abstractmethod
    def _forward(self, batch: Batch) -> Any:
        """Outputs of `self.model` (DDP included) on a micro-batch."""

    @abc.abstractmethod
    def _compute_loss(self, outputs: Any, batch: Batch) -> LossResult | torch.Tensor:
        """Summed terms with their units and metrics; a bare scalar is the mean over the micro-batch's rows."""

    def _loss_result(self, micro_batch: Batch) -> LossResult:
        with self.precision.autocast():
            result = self._compute_loss(self._forward(micro_batch), micro_batch)
        checked = as_result(result, num_rows(micro_batch))
        if SOURCE not in micro_batch:
            return checked
        return self.feed.sources.tell_apart(checked, micro_batch, self._sequence_lengths(micro_batch))

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

    def _count_units(self, batch: Batch) -> dict[str, float] | None:
        """Each term's units in this process's whole step; None when they are known only after the forward."""
        return None

    def _sequence_lengths(self, batch: Batch) -> torch.Tensor:
        """Real tokens of each sequence of a batch, padding excluded where a mask tells of it: of all that is named
        input_ids or <name>_input_ids."""
        found = []
        for name in (name for name in batch if name.endswith("input_ids")):
            mask = batch.get(f"{name.removesuffix('input_ids')}attention_mask", torch.ones_like(batch[name]))
            found.append(mask.sum(-1))
        first = next(iter(batch.values()))
        return torch.cat(found) if found else torch.full((num_rows(batch),), math.prod(first.shape[1:2]))

    def _work(self, batch: Batch) -> Work:
        """What a pass over an update batch computes. Of a trainer that does not say it, or whose class overrides what
        decides the passes and not this, the calls of its models are counted as they are made (calls.py)."""
        raise NotImplementedError

    def _explained(self, error: BaseException) -> BaseException:
        """What a method's author can mend, as a line that names the file; any other error as it is."""
        if isinstance(error, MethodError):
            return MethodError(f"{source_of(type(self))}: {error}")
        name = str(error.args[0]) if isinstance(error, KeyError) and error.args else ""
        if not name.startswith("ref_") or self.settings.needs_reference:
            return error
        return MethodError(
            f"{source_of(type(self))} reads {name}, and its settings ask for no reference; set needs_reference = True "
            f"(a ClassVar) in {type(self.settings).__name__}"
        )

    def _scored(
        self,
        model: torch.nn.Module,
        batch: Batch,
        score: Callable[[torch.nn.Module, Batch], torch.Tensor],
        work_of: Callable[[torch.nn.Module, Batch], Work],
        flops: ModelFlops | None = None,
    ) -> torch.Tensor:
        """score(model, micro-batch), (B, ...), of all rows of a batch before anything is learned from it, without
        gradients; what it costs is charged. For the reference within `reference.scoring()`, for statistics over the
        whole step (distributed.over_all_rows gives them), and for whatever else an update takes as given.

        work_of: what `score` computes of a batch. flops: the model's own; without it the policy is charged as itself
        and every other model as the reference, so a model that is neither needs it.
        """

        def scored(micro_batches: Sequence[Batch]) -> torch.Tensor:
            with heard_by(None), torch.no_grad(), self.precision.autocast():
                return torch.cat([score(model, micro_batch) for micro_batch in micro_batches])

        found = self.gradient.within_memory(batch, scored)
        work = self.charges.as_cut(batch, partial(work_of, model))
        flops = flops or (self.flops if model is self.policy else self.charges.reference)
        self.charges.tell(Costs(scored_tokens=int(work.read), flops=flops.forward(work)))
        return found

    def _training_flops(self, work: Work) -> float:
        """FLOPs of one update's forward and backward."""
        return self.charges.training(work)

    @property
    def uncounted(self) -> str:
        """Why the run's FLOPs are not counted, as far as that is known by now; empty: they are."""
        return self.charges.uncounted(self.costs)

    def _uncounted_info(self) -> dict[str, str]:
        """What the line that training starts with says of FLOPs that are not counted.

        Raises DefinitionError where a budget needs them.
        """
        if reason := self.uncounted:
            refuse_uncounted(self.settings.budget, reason)
        return {"FLOPs": f"not counted: {reason}"} if reason else {}

    def _count_tokens(self, batch: Batch) -> int:
        """Tokens of an update batch in this process, for throughput (time/tokens_per_second) and nothing else."""
        return int(self._sequence_lengths(batch).sum())

    def _seed(self, phase: int) -> None:
        seed_step(self.device, self.settings.seed, self.step, phase, self.rank, self.world_size)

    def _make_update_batches(self, batch: Batch) -> Updates | Iterable[Batch]:
        """The batches of the optimiser steps that one loader batch gives: rollouts, passes, minibatches. Updates also
        say what is recorded of them, what they cost, and how they change the method's state (`self.updates.state`)."""
        return [batch]

    def _make_validation_batches(self, batch: Batch) -> Iterable[Batch]:
        """The batches that one batch of val_loader gives; only their loss is wanted."""
        return [batch]

    def _check_gradient(self, row: dict[str, float]) -> dict[str, float]:
        """The step's own row (the same in every process) as it is to be recorded; may raise before the update."""
        return row

    def _is_enough(self, row: dict[str, float]) -> bool:
        """Whether the step of that row is the last that learns from its updates, however many of them are left."""
        return False

    def _updated(self) -> None:
        """What follows an update, as a part of it: it may move what the method keeps, and may not fail. `self.step`
        counts the update."""

    def _watch(self, row: dict[str, Any]) -> Iterable[str]:
        """Warnings, each with its remedy, that the recorded row gives rise to; raises DivergenceError to stop."""
        return ()

    def _get_extra_config_info(self) -> dict[str, Any]:
        return {}

    def _get_extra_log_info(self, batch: Batch) -> str:
        return ""

    def _get_extra_checkpoint_state(self) -> Mapping[str, Any] | None:
        """What a method keeps from step to step: tensors and JSON values by name; a resume gives them back."""
        return None

    def _load_extra_checkpoint_state(self, state: dict[str, Any]) -> None:
        if state:
            raise CheckpointError(
                f"the checkpoint holds state this trainer does not know: {', '.join(sorted(state))}; define "
                "_load_extra_checkpoint_state(self, state), which takes what _get_extra_checkpoint_state gave"
            )
