"""The one training loop: subclasses give a batch, a forward and a loss; everything else is here, once.

Order of a run: evaluate at step 0; then step, evaluate where due, record one metrics row, checkpoint where due. A step
is a function of (parameters, batch, step number): random generators are seeded from the step, so a checkpoint needs no
generator state, and an interrupted step is thrown away and repeated exactly.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from workbench.disk import make_folder
from workbench.errors import DataError, DefinitionError, DivergenceError, Interrupted
from workbench.interrupts import InterruptRequested, Interrupts
from workbench.models.flops import ModelFlops
from workbench.models.mode import evaluation_mode
from workbench.models.probe import verdict_of
from workbench.models.save import save_from_memory
from workbench.models.tokenizer_given import as_tokenizer
from workbench.trainer import arguments, checkpoint, device, distributed, memory
from workbench.trainer.accumulation import StepLoss
from workbench.trainer.batches import Batch, batches_from, check_updates, is_empty, split_rows
from workbench.trainer.best_weights import BestWeights
from workbench.trainer.calls import CallMeter, says_its_work
from workbench.trainer.costs import Costs
from workbench.trainer.early_stopping import Stopper
from workbench.trainer.ema import AveragedWeights
from workbench.trainer.health import Health
from workbench.trainer.hooks import TrainerHooks
from workbench.trainer.incidents import note
from workbench.trainer.loss import LossResult
from workbench.trainer.memory import within_memory
from workbench.trainer.optimizer import configure_optimizer
from workbench.trainer.output_folder import OutputFolder
from workbench.trainer.precision import Precision, resolve_precision
from workbench.trainer.progress import Progress
from workbench.trainer.range_test import RangeTest
from workbench.trainer.recompute import Recompute
from workbench.trainer.reference import FrozenReference
from workbench.trainer.schedule import configure_scheduler
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.snapshot import restore_snapshot, take_snapshot
from workbench.trainer.spikes import SpikeWatch
from workbench.trainer.update import apply_update

Evaluator = Callable[[torch.nn.Module, int], dict[str, float]]


class BaseTrainer(TrainerHooks):
    """Abstract; `SFTTrainer(model, optimizer, train_loader).train()` is all that most callers need.

    optimizer: None builds configure_optimizer's AdamW. train_loader: an iterable of batches, each process's own share;
    where it has a settable `position` (workbench.data's BatchLoader) a resume jumps there, otherwise it is replayed.
    settings: of settings_class, or a dict. output_dir: None records and saves nothing. Raises Interrupted (after a
    checkpoint) and NonFiniteError from train().
    """

    settings_class: ClassVar[type[TrainerSettings]] = TrainerSettings

    @arguments.checked
    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        train_loader: Iterable[Any] = (),
        *,
        settings: TrainerSettings | dict[str, Any] | None = None,
        val_loader: Iterable[Any] | None = None,
        evaluators: Sequence[Evaluator] = (),
        output_dir: Path | str | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        ref_model: torch.nn.Module | None = None,
        reward_fn: Callable[..., Any] | None = None,
        reward_model: torch.nn.Module | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.settings: Any = cast(Any, settings)  # arguments.checked made a dict, or nothing, settings
        self.is_distributed = self.use_ddp = distributed.is_distributed()
        self.rank, self.world_size = distributed.get_rank(), distributed.get_world_size()
        self.is_main = distributed.is_main()
        self.device = device.training_device(self.settings.device, self.settings.deterministic)
        distributed.join_process_group(self.device)
        self.train_loader, self.val_loader, self.evaluators = train_loader, val_loader, list(evaluators)
        self.ref_model, self.reward_fn, self.reward_model = ref_model, reward_fn, reward_model
        self.tokenizer = as_tokenizer(tokenizer, model)
        self._reference = FrozenReference(ref_model, self.device)
        given = model.to(self.device)
        model = self._set_up_model(given)
        arguments.take_in(optimizer, given, model)
        arguments.check_optimizer(optimizer, model, scheduler, self.settings, type(self).__name__)
        self._recomputing = Recompute(model).active if self.settings.gradient_checkpointing else nullcontext
        self.optimizer = optimizer if optimizer is not None else configure_optimizer(model, self.settings)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.num_steps = self._plan_steps()
        self.scheduler = scheduler or configure_scheduler(self.optimizer, self.num_steps, self.settings)
        self.precision = Precision(resolve_precision(self.settings.precision, self.device, model), self.device)
        self.model = distributed.wrap_model(model, self.device) if self.use_ddp else model
        self.flops = ModelFlops.counted_of(self._policy_of(model), self._recomputing, half=self.precision.is_half)
        self._meter = None if says_its_work(type(self)) else CallMeter(self.model, model, self._policy_of(model))
        self.stopper = Stopper(self.settings.early_stopping) if self.settings.early_stopping else None
        self.ema = AveragedWeights(model, self.settings.ema_decay) if self.settings.ema_decay else None
        ranging = self.settings.schedule == "range_test"
        self.range_test = RangeTest(self.num_steps, self.settings.range_test_stop) if ranging else None
        self.spikes = SpikeWatch(self.settings.spikes) if self.settings.spikes else None
        self._folder = OutputFolder(output_dir, self.settings, writes=self.is_main)
        self.output_dir = self._folder.path
        self._best = BestWeights(self.stopper, self.ema, self._folder)
        self._set_up_state()

    def _set_up_state(self) -> None:
        """Where the run is: what the loop changes, and what a checkpoint holds of it (snapshot.py)."""
        self.step, self.batches_taken, self.rollbacks, self.skipped_in_a_row = 0, 0, 0, 0
        self.costs = Costs()
        self.stopped_by: str | None = None
        self.restored_best = False
        self.micro_batch_rows: int | None = self.settings.micro_batch_rows
        self.last_row: dict[str, Any] = {}
        # The row of a step that is not evaluated yet; step 0 has an evaluation and no training.
        self.pending_row: dict[str, Any] | None = {"step": 0}
        self.pending_batches: list[Batch] = []
        self.pending_completions: list[dict[str, Any]] = []  # what the step's are recorded as
        self.warnings: list[str] = []
        self.health = Health(judges=self.range_test is None, judges_loss=self.settings.data_form != "prompts")
        self.incidents: list[dict[str, Any]] = []
        self.inexact: list[str] = []
        self.save_seconds: list[float] = []  # of each checkpoint that this process wrote
        # Of this process alone, and dropped with the attempt it was spent on: see _charge and _next_batch.
        self._spent, self._num_taken = Costs(), 0
        self._batches: Iterator[Any] | None = None
        self._interrupts, self._log_info, self._was_read = Interrupts(), "", False
        self._progress = Progress(self.num_steps, enabled=self.is_main)

    # The public face.

    @property
    def unwrapped_model(self) -> torch.nn.Module:
        """All that is trained: the policy, and a critic where there is one."""
        return distributed.unwrap_model(self.model)

    @property
    def policy(self) -> torch.nn.Module:
        """The language model: what is evaluated, sampled from and saved."""
        return self._policy_of(self.unwrapped_model)

    def train(self, *, save_model: bool = True) -> dict[str, Any]:
        """Run to the last step, the budget's end or an early stop; the last metrics row. output_dir then has a model/,
        unless save_model is off."""
        arguments.check_start(self, self._folder)
        self._open_records()
        extra = {"device": self.device, "precision": self.precision.name, **verdict_of(self.policy).slower_ways()}
        extra |= self._get_extra_config_info() | self._uncounted_info()
        self._progress.announce(type(self).__name__, extra)
        with Interrupts(immediate=not self.is_distributed) as self._interrupts:
            try:
                while True:
                    if self.pending_row is not None:
                        self._record(self.pending_row)
                    if self.step >= self.num_steps or self.stopped_by:
                        break
                    self._train_step()
                self._finish()
                if save_model and self.output_dir is not None:
                    self.save_model(self.output_dir / "model")
            except (InterruptRequested, Exception) as error:
                if request := self._interrupts.behind(error):
                    self._abandon_step()
                    self._save()
                    raise Interrupted(request.signal_number, saved=self.output_dir is not None) from None
                told = arguments.explained(self._explained(error))
                explained = device.explained(memory.explained(distributed.explained(told)))
                if isinstance(explained, DivergenceError):
                    note(self, str(explained), "stop")
                raise explained  # noqa: B904 - most often it is the error itself
            finally:
                self._batches = None  # an error may have come between taking a batch and learning from it
                self._folder.close()
        return self.last_row

    def evaluate(self) -> dict[str, float]:
        """Held-out loss over val_loader ("eval/loss" and the trainer's metrics) and every evaluator's metrics; of the
        averaged weights where there are any. DefinitionError where there is neither."""
        if self.val_loader is None and not self.evaluators and not self.is_distributed:
            raise DefinitionError(f"{type(self).__name__}: nothing to evaluate by; pass val_loader, or evaluators")
        return self._evaluate()

    def _evaluate(self) -> dict[str, float]:
        # A signal may interrupt the measuring, never the swap.
        with self.ema.swapped_in() if self.ema else nullcontext(), self._interrupts.interruptible():
            return distributed.broadcast_object(self._measure())

    def _measure(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        wrapped, model = self.model, self.unwrapped_model
        # A wrapper's forward may wait for the other processes, and they have as many rows only in training.
        self.model = model
        try:
            with torch.no_grad(), evaluation_mode(model):
                if self.val_loader is not None:
                    metrics |= {f"eval/{name}": value for name, value in self._validate(self.val_loader).items()}
                for evaluator in self.evaluators if self.is_main else ():
                    with self.precision.autocast():
                        found = evaluator(self._policy_of(model), self.step)
                        metrics |= arguments.checked_metrics(found, evaluator)
        finally:
            self.model = wrapped
        return metrics

    def save_model(self, path: Path | str) -> None:
        """Write the policy as it is now, and the tokenizer where one was given, as a Hugging Face folder at `path`."""
        if self.is_main:
            save_from_memory(self.policy, Path(path), self.tokenizer)
        distributed.barrier()

    def save_checkpoint(self, path: Path | str) -> None:
        """Write everything a resume needs to the folder `path`, atomically."""
        tensors, state = take_snapshot(self)
        if self.is_main:
            make_folder(Path(path).parent)
            checkpoint.write(Path(path), tensors, state)
        distributed.barrier()

    def load_checkpoint(self, path: Path | str, *, inexact: bool = False) -> None:
        """Continue from a checkpoint folder. CheckpointError when it is damaged or of other settings; of other
        libraries, threads or data, unless inexact says to go on: then `inexact` and `warnings` tell of it."""
        restore_snapshot(self, *checkpoint.read(Path(path)), inexact=inexact)
        self._batches = None

    def resume(self, *, inexact: bool = False) -> bool:
        """Continue from output_dir's newest valid checkpoint, if there is one; whether there was."""
        self._folder.recover()
        distributed.barrier()
        folder = self._folder.newest()
        if folder is not None:
            self.load_checkpoint(folder, inexact=inexact)
        return folder is not None

    # One step.

    def _train_step(self) -> None:
        started = time.perf_counter()
        if not self.pending_batches:
            self._take_batch()
        batch = self.pending_batches[0]
        update_started = time.perf_counter()
        with self._interrupts.interruptible():
            row = self._compute_gradient(batch)
            spent = self._step_costs(batch)
            row = self._check_gradient(row)
        # From here to the end the step is committed: nothing may interrupt it half-way.
        self.costs.add(spent)
        self.costs.add(Costs(seconds=time.perf_counter() - started))
        if not apply_update(self, row):
            return
        self.step += 1
        self.pending_batches.pop(0)
        row["time/step_seconds"] = time.perf_counter() - started
        row["time/update_seconds"] = time.perf_counter() - update_started
        self.pending_row = {"step": self.step, **row}
        self.pending_completions = self._take_completions()
        self._log_info = self._get_extra_log_info(batch)

    def _take_batch(self) -> None:
        """The loader's next batch made into update batches, and what that cost charged: both or neither."""
        with self._interrupts.interruptible():
            self._seed(0)
            self._spent, self._num_taken = Costs(), 0
            made = self._made_updates(lambda: self._make_update_batches(self._next_batch()))
            check_updates(made, type(self).__name__)
            spent = distributed.gather_objects(self._spent)
        self.pending_batches = made
        self.batches_taken += self._num_taken
        for costs in spent:
            self.costs.add(costs)

    def _next_batch(self) -> Batch:
        """One more of the loader's batches, prepared; for hooks that need several for one step."""
        if self._batches is None:
            number = self.batches_taken + self._num_taken
            self._batches = batches_from(self.train_loader, number, read_before=self._was_read)
            self._was_read = True
        taken = next(self._batches)
        self._num_taken += 1
        if is_empty(taken):
            raise DataError(f"batch {self._batch_number} has no row for process {self.rank}; take larger batches")
        return self._prepare_batch(taken)

    def _compute_gradient(self, batch: Batch) -> dict[str, float]:
        """The whole step's gradients, clipped; its loss, metrics and gradient norm over all processes."""
        row = within_memory(self, batch, partial(self._accumulate, batch))
        self.precision.unscale(self.optimizer)
        limit = self.settings.max_grad_norm or math.inf
        row["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        return row

    def _accumulate(self, batch: Batch) -> dict[str, float]:
        self._seed(1)
        self.optimizer.zero_grad(set_to_none=True)
        loss = StepLoss(self._count_units(batch))
        micro_batches = list(split_rows(batch, self.micro_batch_rows))
        with self._meter.listening() if self._meter else nullcontext():
            self._accumulate_rows(micro_batches, loss)
        return loss.finish(self.parameters)

    def _accumulate_rows(self, micro_batches: list[Batch], loss: StepLoss) -> None:
        for index, micro_batch in enumerate(micro_batches):
            is_last = index == len(micro_batches) - 1
            distributed.progress()
            with nullcontext() if is_last else distributed.no_sync(self.model), self._recomputing():
                summed = loss.add(self._loss_result(micro_batch))
                with distributed.waiting():
                    self.precision.backward(summed)

    def _validate(self, loader: Iterable[Any]) -> dict[str, float]:
        loss = StepLoss()
        try:
            for self._held_out_number, batch in enumerate(loader, 1):
                for prepared in self._make_validation_batches(self._prepare_batch(batch)):
                    for result in within_memory(self, prepared, partial(self._loss_results, prepared)):
                        loss.add(result)
            if not distributed.any_process(self._held_out_number > 0):
                raise DataError("val_loader gives no batch; a generator can be read only once: pass a list or a loader")
        finally:
            self._held_out_number = 0
        return loss.finish()

    def _loss_results(self, batch: Batch) -> list[LossResult]:
        return [self._loss_result(micro_batch) for micro_batch in split_rows(batch, self.micro_batch_rows)]

    def _abandon_step(self) -> None:
        """Forget a step that was interrupted, so that it can begin again, here or from the checkpoint."""
        self.optimizer.zero_grad(set_to_none=True)
        self.precision.load_state_dict(self.precision.state_dict())

    # Records, checkpoints, ends.

    def _record(self, row: dict[str, Any]) -> None:
        """Evaluate where due, write the row, then stop and checkpoint where due."""
        if self.settings.budget and not self.stopped_by:
            self.stopped_by = distributed.broadcast_object(self.costs.spent(self.settings.budget))  # one clock for all
        every, is_last = self.settings.evaluate_every, self.step >= self.num_steps or self.stopped_by is not None
        if self.step == 0 or is_last or (every and self.step % every == 0):
            row = row | self._evaluate()
        row = row | self.costs.row()
        self._folder.append_completions(self.step, self.pending_completions)
        self._folder.append(row)
        improved = self._observe({name: value for name, value in row.items() if name.startswith("eval/")})
        self._progress.report(self.step, row, self._log_info)
        found = self.health.observe(row, is_last=is_last)
        for warning in chain(self._unread_keys(), found, self._watch(row)):
            self.warnings.append(f"step {self.step}: {warning}")
            self._progress.warn(self.warnings[-1])
            self._folder.append_warning(self.step, warning)
        self.last_row, self.pending_row, self.pending_completions = row, None, []
        if improved or self._folder.is_due(self.step) or distributed.any_process(self._folder.is_overdue()):
            self._save()
        self._stop_if_interrupted()

    def _observe(self, held_out: dict[str, float]) -> bool:
        """Let early stopping see an evaluation; whether it is the best so far."""
        improved = self._best.observe(self.step, held_out, self.unwrapped_model)
        if self.stopper and self.stopper.should_stop and not self.stopped_by:
            self.stopped_by = "early_stopping"
        return improved

    def _stop_if_interrupted(self) -> None:
        received = self._interrupts.received
        if distributed.any_process(received is not None):
            raise InterruptRequested(received or signal.SIGTERM)

    def _save(self) -> None:
        if self.output_dir is not None:
            started = time.perf_counter()
            best = self.stopper.state.best_step if self.stopper and self.stopper.state.best_value is not None else None
            self._folder.write(self.step, *take_snapshot(self), best)
            distributed.barrier()
            self.save_seconds.append(time.perf_counter() - started)

    def _finish(self) -> None:
        """The final checkpoint, then the weights that the run leaves: early stopping's best, or the averaged ones."""
        if self.restored_best:
            return
        if self._folder.saved_step != self.step:
            self._save()
        self._stop_if_interrupted()
        self.restored_best = self._best.restore(self.step, self.unwrapped_model)

    def _open_records(self) -> None:
        self._folder.open_records(self.step - 1 if self.pending_row is not None else self.step)
