"""The one training loop: subclasses give a batch, a forward and a loss; the order of a run is here, once.

Order of a run: evaluate at step 0; then step, evaluate where due, record one metrics row, checkpoint where due. What
has state is a part of its own (loop/, machine/, records/), and no part knows the trainer. A step is a function of
(parameters, batch, step number): random generators are seeded from the step, so a checkpoint needs no generator state,
and an interrupted step is thrown away and repeated exactly.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from workbench.errors import DataError, DefinitionError, DivergenceError, Interrupted
from workbench.interrupts import InterruptRequested, Interrupts
from workbench.models.flops import ModelFlops
from workbench.models.mode import evaluation_mode
from workbench.models.probe import verdict_of
from workbench.models.reference import FrozenReference
from workbench.models.tokenizer_given import as_tokenizer
from workbench.trainer import arguments
from workbench.trainer.loop import memory
from workbench.trainer.loop.batches import Batch, check_updates, is_empty
from workbench.trainer.loop.charges import Charges
from workbench.trainer.loop.descent import Descent
from workbench.trainer.loop.examination import Evaluator, Examination
from workbench.trainer.loop.feed import Feed
from workbench.trainer.loop.gradient import Gradient
from workbench.trainer.loop.guard import Guard, Verdict
from workbench.trainer.loop.updates import Updates
from workbench.trainer.loss import LossResult
from workbench.trainer.machine import device, distributed
from workbench.trainer.machine.network import network_of
from workbench.trainer.machine.recompute import Recompute
from workbench.trainer.optimizer import configure_optimizer
from workbench.trainer.records.calls import CallMeter, says_its_work
from workbench.trainer.records.costs import Costs
from workbench.trainer.records.health import Health
from workbench.trainer.records.output_folder import OutputFolder
from workbench.trainer.records.progress import Progress
from workbench.trainer.records.state import RunState
from workbench.trainer.saved import SavedTrainer
from workbench.trainer.settings import TrainerSettings


class BaseTrainer(SavedTrainer):
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
        self.network = network_of(device.training_device(self.settings.device, self.settings.deterministic))
        self.reference = FrozenReference(ref_model, self.device, moves=self.settings.reference_moves)
        self.reward_fn, self.reward_model, self.tokenizer = reward_fn, reward_model, as_tokenizer(tokenizer, model)
        self.feed = Feed(train_loader, self.device)
        self.records = OutputFolder(output_dir, self.settings, writes=self.is_main)
        stopping = self.settings.early_stopping
        self.examination = Examination(val_loader, evaluators, stopping, self.network, self.records)
        given = model.to(self.device)
        model = self._set_up_model(given)
        arguments.given_by(
            f"{arguments.source_of(type(self))}._set_up_model", model, torch.nn.Module, "the module to train"
        )
        policy = self._policy_of(model)
        self.reference.follow(policy)
        arguments.take_in(optimizer, given, model)
        arguments.check_optimizer(optimizer, model, scheduler, self.settings, type(self).__name__)
        recomputing = Recompute(model).active if self.settings.gradient_checkpointing else nullcontext
        self.progress = Progress(self._plan_steps(), enabled=self.is_main)
        optimizer = configure_optimizer(model, self.settings) if optimizer is None else optimizer
        self.network.hold(model)  # before anything copies weights: each process has those of the main one from here on
        self.descent = Descent(model, optimizer, scheduler, self.settings, self.num_steps, self.device)
        self.examination.ema = self.descent.ema
        flops = ModelFlops.counted_of(policy, recomputing, half=self.precision.is_half)
        meter = None if says_its_work(type(self)) else CallMeter(self.model, model, policy)
        self.charges = Charges(flops, meter, ref_model, self.settings)
        listening = self.charges.listening
        self.gradient = Gradient(
            self.network, self.descent, self.settings, recomputing=recomputing, listening=listening, note=self._note
        )
        self.guard = Guard(self.settings, self.num_steps)
        self.health = Health(judges=self.guard.range_test is None, judges_loss=not self.settings.data_form.is_sampled)
        self.state = RunState()
        self.interrupts = Interrupts()

    # The public face.

    def train(
        self, *, save_model: bool = True, pause: Callable[[dict[str, Any]], bool] | None = None
    ) -> dict[str, Any]:
        """Run to the last step, the budget's end or an early stop; the last metrics row. output_dir then has a model/,
        unless save_model is off. pause: says by each row whether to stop there after a checkpoint, to be resumed."""
        arguments.check_start(type(self).__name__, self.train_loader, self.val_loader, self.records, self.step)
        if self.stopper and not self.examination.measures and self.is_main:
            raise self.stopper.unmeasured(type(self).__name__)
        self.records.open_records(self.state.recorded_step)
        extra = {"device": self.device, "precision": self.precision.name, **verdict_of(self.policy).slower_ways()}
        extra |= self._get_extra_config_info() | self._uncounted_info()
        self.progress.announce(type(self).__name__, extra)
        with Interrupts(immediate=not self.is_distributed) as self.interrupts:
            try:
                while True:
                    if self.state.pending_row is not None:
                        self._record(self.state.pending_row)
                    if self.ended or (pause is not None and pause(self.last_row)):
                        break
                    self.train_step()
                self._finish()
                if self.ended and save_model and self.output_dir is not None:
                    self.save_model(self.output_dir / "model")
            except (InterruptRequested, Exception) as error:
                ended = self._ended_by(error)
                raise ended from ended.__cause__
            finally:
                self.feed.rewind()
                self.records.close()
        return self.last_row

    def evaluate(self) -> dict[str, float]:
        """Held-out loss over val_loader ("eval/loss" and the trainer's metrics) and every evaluator's metrics; of the
        averaged weights where there are any. Raises DefinitionError where there is neither."""
        if not self.examination.measures and not self.is_distributed:
            raise DefinitionError(f"{type(self).__name__}: nothing to evaluate by; pass val_loader, or evaluators")
        return self._evaluate()

    # One step.

    def train_step(self) -> None:
        """One optimiser step, committed and not yet recorded, for a loop of one's own; `train` does more for each."""
        started = time.perf_counter()
        if not self.updates.batches:
            self._take_batch()
        batch = self.updates.batches[0]
        update_started = time.perf_counter()
        with self.interrupts.interruptible():
            row = self._compute_gradient(batch)
            spent = self.charges.of_update(batch, self._work, self._training_flops)
            tokens = sum(distributed.gather_objects(self._count_tokens(batch)))
            row = arguments.given_by("_check_gradient", self._check_gradient(row), dict, "the row")
        # From here to the end the step is committed: nothing may interrupt it half-way.
        self.costs.add(spent)
        self.costs.add(Costs(seconds=time.perf_counter() - started))
        verdict = self.guard.judge(self.step + 1, row, expects_overflow=self.precision.expects_overflow)
        if verdict.action == "stop":
            raise verdict.error()
        if verdict.action == "rollback":
            self._roll_back(verdict)
            return
        if verdict.action == "skip":
            self._note(verdict.what, "skip")
        if not self.descent.make(self.step + 1, verdict.action):
            row["skipped"] = 1.0
        self.state.stopped_by = verdict.ends_run
        self.state.step += 1
        self._updated()
        learned = self.feed.drop_first(is_enough=self._is_enough(row))
        row["time/step_seconds"] = time.perf_counter() - started
        row["time/update_seconds"] = time.perf_counter() - update_started
        row["time/tokens_per_second"] = tokens / row["time/step_seconds"]
        self.state.pending_row = {"step": self.step, **row, **learned.metrics}
        self.state.pending_completions = list(learned.completions)
        self.state.log_info = self._get_extra_log_info(batch)

    def _take_batch(self) -> None:
        """Updates made of the loader's next batch, and what that cost charged: both or neither."""
        with self.interrupts.interruptible():
            self._seed(0)
            self.feed.begin()
            with self.charges.listening():
                made = Updates.of(self._make_update_batches(self._next_batch()))
            check_updates(made.batches)
            spent = distributed.gather_objects(made.costs + self.charges.heard())
        self.feed.commit(made)
        for costs in spent:
            self.costs.add(costs)

    def _next_batch(self) -> Batch:
        """One more of the loader's batches, prepared; for hooks that need several for one step."""
        taken = self.feed.next()
        if is_empty(taken):
            raise DataError(f"batch {self._batch_number} has no row for process {self.rank}; take larger batches")
        return self._prepare_batch(taken)

    def _compute_gradient(self, batch: Batch) -> dict[str, float]:
        """The whole step's gradients, clipped; its loss, metrics and gradient norm over all processes."""

        def begin() -> dict[str, float] | None:
            self._seed(1)
            return self._count_units(batch)

        return self.feed.sources.complete(self.gradient.compute(batch, begin, self._loss_result), self.feed.taken)

    def _roll_back(self, verdict: Verdict) -> None:
        """Back to the last regular checkpoint, past the batches since: the same ones would diverge the same way."""
        step = self.records.rollback_step(self.step)
        folder = self.records.checkpoint_of(step)
        if folder is None:
            raise verdict.error("no valid checkpoint to roll back to: lower learning_rate")
        self._note(verdict.what, f"rollback to step {step}")
        rollbacks, costs, incidents = self.guard.rollbacks, self.costs, self.incidents
        with self.feed.going_on():
            self.load_checkpoint(folder)
        self.guard.rollbacks = rollbacks + 1
        self.state.costs, self.state.incidents = costs, incidents
        self.records.open_records(self.state.recorded_step)

    # Evaluation, records, ends.

    def _evaluate(self) -> dict[str, float]:
        # A signal may interrupt the measuring, and none of the swaps.
        with (
            self.descent.averaged(),
            self.network.unwrapped() as model,
            evaluation_mode(model),
            torch.no_grad(),
            self.interrupts.interruptible(),
        ):
            metrics = self._validate()
            metrics |= self.examination.ask(self.result, self.step, self.precision.autocast)
            return distributed.broadcast_object(metrics)

    def _validate(self) -> dict[str, float]:
        def losses_of(batch: Any) -> Iterable[LossResult]:
            for prepared in self._make_validation_batches(self._prepare_batch(batch)):
                yield from self.gradient.within_memory(prepared, self._loss_results)

        return self.examination.held_out_loss(losses_of)

    def _loss_results(self, micro_batches: Iterable[Batch]) -> list[LossResult]:
        return [self._loss_result(micro_batch) for micro_batch in micro_batches]

    def _record(self, row: dict[str, Any]) -> None:
        """Evaluate where due, write the row, then stop and checkpoint where due."""
        state = self.state
        if self.settings.budget and not state.stopped_by:
            spent = self.costs.spent(self.settings.budget, self.uncounted)
            state.stopped_by = distributed.broadcast_object(spent)  # one clock for all
        every, is_last = self.settings.evaluate_every, self.step >= self.num_steps or state.stopped_by is not None
        if self.step == 0 or is_last or (every and self.step % every == 0):
            row = row | self._evaluate()
        row = row | self.costs.row()
        self.records.append_completions(self.step, state.pending_completions)
        self.records.append(row)
        improved = self.examination.observe(self.step, _held_out(row))
        if self.examination.should_stop and not state.stopped_by:
            state.stopped_by = "early_stopping"
        self.progress.report(self.step, row, state.log_info)
        found = self.health.observe(row, is_last=is_last)
        for warning in chain(self._findings(), found, self._watch(row)):
            state.warnings.append(f"step {self.step}: {warning}")
            self.progress.warn(state.warnings[-1])
            self.records.append_warning(self.step, warning)
        state.last_row, state.pending_row, state.pending_completions = row, None, []
        if improved or self.records.is_due(self.step) or distributed.any_process(self.records.is_overdue()):
            self._save()
        self._stop_if_interrupted()

    def _stop_if_interrupted(self) -> None:
        received = self.interrupts.received
        if distributed.any_process(received is not None):
            raise InterruptRequested(received or signal.SIGTERM)

    def _finish(self) -> None:
        """The final checkpoint, then the weights that the run leaves: early stopping's best, or the averaged ones."""
        if self.restored_best:
            return
        if self.records.saved_step != self.step:
            self._save()
        self._stop_if_interrupted()
        self.state.restored_best = self.ended and self.examination.restore_best(self.step)

    def _ended_by(self, error: BaseException) -> BaseException:
        """What a run that cannot go on ends with: an interrupt, after a checkpoint, or a line that names the remedy."""
        if request := self.interrupts.behind(error):
            self.descent.abandon()
            self._save()
            return Interrupted(request.signal_number, saved=self.output_dir is not None)
        told = arguments.explained(self._explained(error))
        explained = device.explained(memory.explained(distributed.explained(told)))
        if isinstance(explained, DivergenceError):
            self.state.note(str(explained), "stop")
        return explained

    def _note(self, what: str, action: str) -> None:
        """Add an incident to the run's account, and say so at once."""
        self.progress.warn(self.state.note(what, action))


def _held_out(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith("eval/")}
