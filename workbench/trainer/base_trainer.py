"""The one training loop: subclasses give a batch, a forward and a loss; everything else is here, once.

Order of a run: evaluate at step 0; then step, evaluate where due, record one metrics row, checkpoint where due. A step
is a function of (parameters, batch, step number): random generators are seeded from the step, so a checkpoint needs no
generator state, and an interrupted step is thrown away and repeated exactly.
"""

from __future__ import annotations

import abc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch

from workbench.errors import CheckpointError, Interrupted, NonFiniteError
from workbench.models.flops import ModelFlops
from workbench.tracking.store import MetricStore
from workbench.tracking.values import Value, pack, pool_metrics, results, unpack
from workbench.trainer import checkpoint, distributed
from workbench.trainer.accumulation import Batch, StepLoss, num_rows, split_rows
from workbench.trainer.costs import Costs
from workbench.trainer.early_stopping import Stopper
from workbench.trainer.interrupts import InterruptRequested, Interrupts
from workbench.trainer.loss import LossResult
from workbench.trainer.optimizer import configure_optimizer
from workbench.trainer.precision import Precision, resolve_precision
from workbench.trainer.progress import Progress
from workbench.trainer.schedule import configure_scheduler
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.snapshot import restore_snapshot, take_snapshot

Evaluator = Callable[[torch.nn.Module, int], dict[str, float]]
MAX_ROLLBACKS = 3
RECORDS = ("metrics.jsonl", "completions.jsonl", "pairs.jsonl")


class BaseTrainer(abc.ABC):
    """Abstract; `SFTTrainer(model, optimizer, train_loader).train()` is all that most callers need.

    optimizer: None builds configure_optimizer's AdamW. train_loader: an iterable of batches; where it has a settable
    `position` (workbench.data's BatchLoader) a resume jumps there, otherwise it is replayed. output_dir: None records
    and saves nothing. Raises Interrupted (after a checkpoint) and NonFiniteError from train().
    """

    settings_class: ClassVar[type[TrainerSettings]] = TrainerSettings

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        train_loader: Iterable[Any] = (),
        *,
        settings: TrainerSettings | None = None,
        val_loader: Iterable[Any] | None = None,
        evaluators: Sequence[Evaluator] = (),
        output_dir: Path | str | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        ref_model: torch.nn.Module | None = None,
        reward_fn: Callable | None = None,
        reward_model: torch.nn.Module | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.settings: Any = settings if settings is not None else self.settings_class()
        self.is_distributed = distributed.is_distributed()
        self.rank, self.world_size = distributed.get_rank(), distributed.get_world_size()
        self.is_main = distributed.is_main()
        self.use_ddp = self.is_distributed
        self.device = distributed.training_device(self.settings.device)
        distributed.join_process_group(self.device)
        model.to(self.device)
        self.train_loader, self.val_loader, self.evaluators = train_loader, val_loader, list(evaluators)
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.ref_model, self.reward_fn, self.reward_model = ref_model, reward_fn, reward_model
        self.tokenizer = tokenizer
        self._set_up_model(model)
        self.optimizer = optimizer if optimizer is not None else configure_optimizer(model, self.settings)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.num_steps = self._plan_steps()
        self.scheduler = scheduler or configure_scheduler(self.optimizer, self.num_steps, self.settings)
        self.precision = Precision(self._resolve_precision(model), self.device)
        self.model = distributed.wrap_model(model, self.device) if self.use_ddp else model
        self.flops = ModelFlops.of_model(model)
        self.stopper = Stopper(self.settings.early_stopping) if self.settings.early_stopping else None
        self.step, self.batches_taken, self.rollbacks = 0, 0, 0
        self.costs = Costs()
        self.stopped_by: str | None = None
        self.restored_best = False
        self.last_row: dict[str, Any] = {}
        # The row of a step whose evaluation is not done yet; step 0 has an evaluation and no training.
        self.pending_row: dict[str, Any] | None = {"step": 0}
        self.pending_batches: list[Batch] = []
        self._batches: Iterator[Any] | None = None
        self._interrupts = Interrupts()
        self._log_info = ""

    # What a trainer gives.

    @abc.abstractmethod
    def _prepare_batch(self, batch: Any) -> Batch:
        """The loader's batch checked and on this device."""

    @abc.abstractmethod
    def _forward(self, batch: Batch) -> Any:
        """Outputs of `self.model` (DDP included) on a micro-batch."""

    @abc.abstractmethod
    def _compute_loss(self, outputs: Any, batch: Batch) -> LossResult | torch.Tensor:
        """Summed terms with their units and metrics; a bare scalar is the mean over the micro-batch's rows."""

    def _set_up_model(self, model: torch.nn.Module) -> None:
        """Dropout and references, before the optimiser is made; by default dropout is off (eval mode)."""
        model.eval()

    def _count_units(self, batch: Batch) -> dict[str, float] | None:
        """Each term's units in this process's whole step; None when they are known only after the forward."""
        return None

    def _sequence_lengths(self, batch: Batch) -> torch.Tensor:
        """Real tokens of each sequence that the step computes, padding excluded."""
        if "attention_mask" in batch:
            return batch["attention_mask"].sum(-1)
        first = next(iter(batch.values()))
        return torch.full((num_rows(batch),), math.prod(first.shape[1:2]), device=first.device)

    def _count_tokens(self, batch: Batch) -> int:
        """Tokens of a batch, for throughput only."""
        return int(self._sequence_lengths(batch).sum())

    def _make_update_batches(self, batch: Batch) -> Iterable[Batch]:
        """The batches of the optimiser steps that one loader batch gives: rollouts, passes, minibatches."""
        return [batch]

    def _get_extra_config_info(self) -> dict[str, Any]:
        return {}

    def _get_extra_log_info(self, batch: Batch) -> str:
        return ""

    def _get_extra_checkpoint_state(self) -> dict[str, Any]:
        return {}

    def _load_extra_checkpoint_state(self, state: dict[str, Any]) -> None:
        if state:
            raise CheckpointError(f"the checkpoint holds state this trainer does not know: {', '.join(sorted(state))}")

    # The public face.

    @property
    def unwrapped_model(self) -> torch.nn.Module:
        return distributed.unwrap_model(self.model)

    def train(self) -> dict[str, float]:
        """Run to the last step, the budget's end or an early stop; the last metrics row."""
        self._open_records()
        self._progress = Progress(self.num_steps, enabled=self.is_main)
        self._checkpointed_at = time.monotonic()
        with Interrupts(immediate=not self.is_distributed) as self._interrupts:
            try:
                while True:
                    if self.pending_row is not None:
                        self._record(self.pending_row)
                    if self.step >= self.num_steps or self.stopped_by:
                        break
                    self._train_step()
                self._finish()
            except InterruptRequested as request:
                self._save()
                raise Interrupted(request.signal_number) from None
            finally:
                for store in self._stores.values():
                    store.close()
        return self.last_row

    def evaluate(self) -> dict[str, float]:
        """Held-out loss over val_loader ("eval/loss" and the trainer's metrics) and every evaluator's metrics."""
        metrics: dict[str, float] = {}
        model = self.unwrapped_model
        was_training = model.training
        model.eval()
        try:
            if self.val_loader is not None:
                metrics |= {f"eval/{name}": value for name, value in self._validate(self.val_loader).items()}
            if self.is_main:
                for evaluator in self.evaluators:
                    with self.precision.autocast():
                        metrics |= evaluator(model, self.step)
        finally:
            model.train(was_training)
        return distributed.broadcast_object(metrics)

    def save_checkpoint(self, path: Path | str) -> None:
        """Write everything a resume needs to the folder `path`, atomically."""
        tensors, state = take_snapshot(self)
        if self.is_main:
            checkpoint.write(Path(path), tensors, state)
        distributed.barrier()

    def load_checkpoint(self, path: Path | str) -> None:
        """Continue from a checkpoint folder. CheckpointError when it is damaged or of other settings."""
        restore_snapshot(self, *checkpoint.read(Path(path)))
        self._batches = None

    def resume(self) -> bool:
        """Continue from output_dir's newest valid checkpoint, if there is one; whether there was."""
        folder = checkpoint.newest_valid(self._checkpoints) if self.output_dir else None
        if folder is not None:
            self.load_checkpoint(folder)
        return folder is not None

    # One step.

    def _train_step(self) -> None:
        started = time.perf_counter()
        with self._interrupts.interruptible():
            if not self.pending_batches:
                self._seed(0)
                self.pending_batches = list(self._make_update_batches(self._prepare_batch(self._next_batch())))
            batch = self.pending_batches[0]
            self._seed(1)
            row, lengths = self._accumulate_gradient(batch)
            self.precision.unscale(self.optimizer)
            limit = self.settings.max_grad_norm or math.inf
            row["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
            row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
            finite = math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])
            if not finite and self._handle_non_finite(row):
                return
        # From here to the end the step is committed: nothing may interrupt it half-way.
        if finite or self.precision.skips_overflow:
            self.precision.step(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.step += 1
        self.pending_batches.pop(0)
        self.batches_taken += not self.pending_batches
        self._charge(lengths, time.perf_counter() - started)
        row["time/step_seconds"] = time.perf_counter() - started
        if not finite:
            row["skipped"] = 1.0
        self.pending_row = {"step": self.step, **row}
        self._log_info = self._get_extra_log_info(batch)

    def _accumulate_gradient(self, batch: Batch) -> tuple[dict[str, float], torch.Tensor]:
        """Gradients of the whole step, its loss and metrics, and (tokens, context, longest) over all processes."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = StepLoss(self._count_units(batch), self.device)
        micro_batches = list(split_rows(batch, self.settings.micro_batch_rows))
        for index, micro_batch in enumerate(micro_batches):
            is_last = index == len(micro_batches) - 1
            with nullcontext() if is_last else distributed.no_sync(self.model):
                self.precision.backward(loss.add(self._loss_result(micro_batch)))
        row = loss.finish(self.parameters)
        lengths = self._sequence_lengths(batch).double()
        spent = torch.stack((lengths.sum(), (lengths * (lengths + 1) / 2).sum()))
        return row | self._pool(loss.metrics), distributed.reduce_tensor(spent)

    def _loss_result(self, micro_batch: Batch) -> LossResult:
        with self.precision.autocast():
            result = self._compute_loss(self._forward(micro_batch), micro_batch)
        return result if isinstance(result, LossResult) else LossResult.from_mean(result, num_rows(micro_batch))

    def _pool(self, metrics: list[dict[str, Value]]) -> dict[str, float]:
        pooled = pool_metrics(metrics)
        if not self.is_distributed or not pooled:
            return results(pooled)
        sums, maxes = (torch.tensor(part, dtype=torch.float64, device=self.device) for part in pack(pooled))
        return results(
            unpack(pooled, distributed.reduce_tensor(sums).tolist(), distributed.reduce_tensor(maxes, "max").tolist())
        )

    def _validate(self, loader: Iterable[Any]) -> dict[str, float]:
        loss = StepLoss(None, self.device)
        with torch.no_grad():
            for batch in loader:
                for micro_batch in split_rows(self._prepare_batch(batch), self.settings.micro_batch_rows):
                    loss.add(self._loss_result(micro_batch))
        return loss.finish([]) | self._pool(loss.metrics)

    def _handle_non_finite(self, row: dict[str, float]) -> bool:
        """Whether the step is over: "stop" raises, "rollback" returns to a checkpoint, "skip" costs one step."""
        if self.precision.skips_overflow or self.settings.non_finite == "skip":
            return False
        found = f"step {self.step + 1}: loss is {row['loss']}, gradient norm {row['grad_norm']}"
        if self.settings.non_finite == "stop" or self.rollbacks >= MAX_ROLLBACKS:
            raise NonFiniteError(f"{found}; lower learning_rate, or set non_finite to skip or rollback")
        taken, rollbacks = self.batches_taken + 1, self.rollbacks + 1
        if not self.resume():
            raise NonFiniteError(f"{found}; there is no checkpoint to roll back to: set checkpoint_every")
        # The batches since the checkpoint are passed over: the same ones would diverge the same way.
        self.batches_taken, self.rollbacks, self.pending_batches, self._batches = taken, rollbacks, [], None
        self._open_records()
        return True

    # Records, checkpoints, ends.

    def _record(self, row: dict[str, Any]) -> None:
        """Evaluate where due, write the row, then stop and checkpoint where due."""
        every, last = self.settings.evaluate_every, self._is_last()
        if row["step"] == 0 or last or (every and row["step"] % every == 0):
            with self._interrupts.interruptible():
                row = row | self.evaluate()
        row = row | self.costs.row()
        if self.is_main and self._stores:
            self._stores["metrics.jsonl"].append(row)
        self.last_row, self.pending_row = row, None
        improved = False
        held_out = {name: value for name, value in row.items() if name.startswith("eval/")}
        if self.stopper and held_out:
            improved = self.stopper.observe(self.step, held_out)
            if self.stopper.should_stop and not self.stopped_by:
                self.stopped_by = "early_stopping"
        self._progress.report(self.step, row, self._log_info)
        self._checkpoint_if_due(improved)

    def _is_last(self) -> bool:
        if self.settings.budget and not self.stopped_by:
            self.stopped_by = self.costs.spent(self.settings.budget)
        return self.step >= self.num_steps or self.stopped_by is not None

    def _checkpoint_if_due(self, improved: bool) -> None:
        every, seconds = self.settings.checkpoint_every, self.settings.checkpoint_seconds
        overdue = bool(seconds) and time.monotonic() - self._checkpointed_at >= seconds
        interrupted = self._interrupts.received is not None
        if self.is_distributed:
            overdue = distributed.any_process(overdue, self.device)
            interrupted = distributed.any_process(interrupted, self.device)
        if improved or overdue or (every and self.step and self.step % every == 0):
            self._save()
        if interrupted and self.is_distributed:
            raise InterruptRequested(self._interrupts.received or 15)

    def _save(self) -> None:
        if self.output_dir is None:
            return
        self.save_checkpoint(checkpoint.step_folder(self._checkpoints, self.step))
        best = self.stopper.state.best_step if self.stopper and self.stopper.state.best_value is not None else None
        if self.is_main:
            best_folder = None if best is None else checkpoint.step_folder(self._checkpoints, best)
            checkpoint.rotate(self._checkpoints, self.settings.keep_checkpoints, best_folder)
        self._checkpointed_at = time.monotonic()

    def _finish(self) -> None:
        """The final checkpoint, then the best weights back where early stopping asked for them."""
        self._save()
        if self.stopper and self.output_dir and self.stopper.state.best_step != self.step:
            tensors, _ = checkpoint.read(checkpoint.step_folder(self._checkpoints, self.stopper.state.best_step))
            restore_snapshot(self, tensors, None)
            self.restored_best = True

    @property
    def _checkpoints(self) -> Path:
        assert self.output_dir is not None
        return self.output_dir / "checkpoints"

    def _open_records(self) -> None:
        """Drop every recorded row after the state we continue from, so that a resume leaves no gap and no duplicate."""
        self._stores: dict[str, MetricStore] = {}
        if self.output_dir is None or not self.is_main:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        last_recorded = self.step - 1 if self.pending_row is not None else self.step
        for name in RECORDS:
            if name == "metrics.jsonl" or (self.output_dir / name).exists():
                self._stores[name] = MetricStore(self.output_dir / name)
                self._stores[name].truncate_after(last_recorded)

    # Small things.

    def _charge(self, spent: torch.Tensor, seconds: float) -> None:
        tokens, context = spent.tolist()
        flops = self.flops.training(tokens, context)
        self.costs.add(Costs(trained_tokens=int(tokens), flops=flops, seconds=seconds))

    def _next_batch(self) -> Any:
        """The loader's batch number batches_taken, counted over epochs."""
        if self._batches is None:
            self._batches = _from_position(self.train_loader, self.batches_taken)
        return next(self._batches)

    def _plan_steps(self) -> int:
        if self.settings.steps is not None:
            return self.settings.steps
        return math.ceil(self.settings.epochs * len(self.train_loader))  # type: ignore[arg-type]

    def _seed(self, phase: int) -> None:
        torch.manual_seed(((self.settings.seed * 1_000_003 + self.step) * 2 + phase) * self.world_size + self.rank)

    def _resolve_precision(self, model: torch.nn.Module) -> str:
        width = max((p.shape[-1] for p in model.parameters() if p.ndim >= 2), default=1)
        return resolve_precision(self.settings.precision, self.device, width, torch.get_num_threads())

    @property
    def settings_record(self) -> dict[str, Any]:
        """The settings as JSON values, and what the run has resolved of them."""
        return self.settings.model_dump(mode="json") | {"precision": self.precision.name}

    @property
    def progress_record(self) -> dict[str, Any]:
        """Where the run is, as JSON values: the part of a checkpoint that the loop itself owns."""
        return {
            "step": self.step,
            "batches_taken": self.batches_taken,
            "rollbacks": self.rollbacks,
            "stopped_by": self.stopped_by,
            "pending_row": self.pending_row,
            "costs": asdict(self.costs),
        }


def _from_position(loader: Any, position: int) -> Iterator[Any]:
    """The loader's batches from number `position` on, epoch after epoch."""
    if hasattr(type(loader), "position"):
        loader.position = position
        yield from loader
    while True:
        empty = True
        for batch in loader:
            empty = False
            if position > 0:
                position -= 1
            else:
                yield batch
        assert not empty, "train_loader is empty"
