"""One run, from its prepared inputs to its model, in this process."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from workbench.config import file_sha256
from workbench.data.sets import PromptSet, TokenSet
from workbench.data.settings import MixData
from workbench.errors import DefinitionError, Interrupted, RankError, WorkbenchError
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.identity import counted_before, measuring_versions, task_of, versions_of_others
from workbench.experiment.planning import leaks
from workbench.experiment.running.held_out import build_evaluators, held_out_examples, held_out_notes, trained_as_chat
from workbench.experiment.running.learned_rows import loader_of, open_rows, place_of
from workbench.experiment.running.prepared import PreparedRun
from workbench.experiment.running.run_folder import FINISHED, RunFolder
from workbench.experiment.running.stops import SAYS, STOPPED, answered, heeded, is_asked
from workbench.inputs import Inputs
from workbench.interrupts import interrupt_behind
from workbench.locks import INSIDE, hold, hold_file
from workbench.models.adapters import add_lora
from workbench.models.folder import model_fingerprint, weights_file
from workbench.models.load import count_parameters, load_model, save_model
from workbench.models.tokenizer import Tokenizer
from workbench.permissions import NOTHING, Permissions
from workbench.rewards.build import build_rewards, check_rewarded
from workbench.rewards.by_source import RewardsBySource
from workbench.rewards.reward import RewardSet
from workbench.tracking.terminal import complain
from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.create import create_trainer
from workbench.trainer.machine import distributed
from workbench.trainer.machine.device import training_device
from workbench.trainer.method import describe
from workbench.trainer.records.costs import Costs


def execute(
    prepared: PreparedRun, runs: Path, provenance: Mapping[str, Any], permissions: Permissions = NOTHING
) -> None:
    """Train the run to its end, or on from its last checkpoint, and leave its model. What went wrong is in its status
    and raised again. Of the processes of a job each calls this, and the main one alone writes."""
    settings = prepared.spec.hyperparameters
    if distributed.is_distributed():
        distributed.join_process_group(training_device(settings.device, settings.deterministic))
    if distributed.is_main():
        _lead(prepared, runs, provenance, permissions)
        return
    try:
        if distributed.broadcast_object(False):
            with Inputs.verified(prepared.inputs).unchanged():
                trainer = build_trainer(prepared, runs / prepared.spec.key, permissions)
            trainer.resume(inexact=permissions.inexact)
            trainer.train(save_model=False, pause=prepared.spec.pause)
        distributed.barrier()
    except BaseException as error:
        raise distributed.explained(error) from None


def _lead(prepared: PreparedRun, runs: Path, provenance: Mapping[str, Any], permissions: Permissions) -> None:
    """The main process's part, which is the whole where there is no other."""
    folder = RunFolder(runs, prepared.spec.key)
    when_waiting: list[Mapping[str, Any]] = []

    def wait(holder: str) -> None:
        when_waiting.append(folder.status())
        complain(f"waiting for {holder}")

    with contextlib.ExitStack() as locks:
        locks.enter_context(hold(runs, prepared.spec.key, on_wait=wait, inside=True))
        if folder.status().get("fingerprint") == prepared.identity.fingerprint:
            if folder.is_finished():
                distributed.broadcast_object(False)
                distributed.barrier()
                return  # another command made it while this one waited
            status = folder.status()
            if when_waiting not in ([], [status]) and status.get("state") in ("failed", STOPPED):
                raise distributed.explained(_failed_there(status))
        started = time.monotonic()
        before = 0.0
        trainer: BaseTrainer | None = None
        try:
            if _begin(folder, prepared, provenance):  # the lock inside went with what was moved away
                locks.enter_context(hold_file(folder.path / INSIDE, prepared.spec.key))
            before = float(folder.status().get("seconds") or 0.0)
            distributed.when_ended(partial(_end_by_peers, folder))
            distributed.broadcast_object(True)
            locks.enter_context(heeded(runs, prepared.spec.key))
            with Inputs.verified(prepared.inputs).unchanged():
                trainer = build_trainer(prepared, folder.path, permissions)
                found = find_overlaps(prepared, runs)
                notes = [*prepared.notes, *held_out_notes(prepared), *leaks.notes(found)]
            uncounted = trainer.uncounted
            notes += [f"FLOPs are not counted: {uncounted}"] if uncounted else []
            folder.write_status(notes=notes, overlaps=leaks.record(found))
            trainer.resume(inexact=permissions.inexact)
            # _finish saves the model, with the files that it was made of.
            trainer.train(save_model=False, pause=prepared.spec.pause)
            if trainer.ended:
                _finish(folder, prepared, trainer, before + time.monotonic() - started)
            else:
                folder.write_paused(prepared.spec, seconds=before + time.monotonic() - started, **_progress(trainer))
            distributed.barrier()
        except BaseException as met:
            # A signal before or after training, which answers its own, finds nothing to save.
            request = interrupt_behind(met) if not isinstance(met, Interrupted) else None
            error = Interrupted(request.signal_number, saved=False) if request else distributed.explained(met)
            if not isinstance(error, WorkbenchError):
                raise
            if not folder.is_finished():
                state, message = _end_of(error, runs, prepared.spec.key)
                folder.write_status(
                    state=state,
                    message=message,
                    exit_code=error.exit_code,
                    seconds=before + time.monotonic() - started,
                    **(_progress(trainer) if trainer is not None else {}),
                )
            raise error from None


def _end_by_peers(folder: RunFolder, verdict: str) -> None:
    """A process of the job is to blame for its end, which the main thread, waiting for it, cannot say."""
    folder.write_status(state="failed", message=verdict, exit_code=RankError.exit_code)


def _end_of(error: WorkbenchError, runs: Path, key: str) -> tuple[str, str]:
    """The state of a run that this error ends, and what it says; a request to stop is answered with that."""
    if not isinstance(error, Interrupted):
        return "failed", str(error)
    if not is_asked(runs, key):
        return "interrupted", str(error)
    answered(runs, key)
    return STOPPED, SAYS


def _failed_there(status: Mapping[str, Any]) -> WorkbenchError:
    """What another command met, and this one would meet again."""
    error = WorkbenchError(str(status.get("message")))
    error.exit_code = int(status.get("exit_code") or error.exit_code)
    return error


def build_trainer(
    prepared: PreparedRun, output_dir: Path, permissions: Permissions = NOTHING, *, rewarded: bool = True
) -> BaseTrainer:
    """The trainer of a run, at step 0: model, adapters, data in the run's order, held-out evaluation, costs so far.
    rewarded: whether a trainer of prompts is to train, for which it needs its rewards."""
    spec = prepared.spec
    tokenizer = Tokenizer.load(prepared.model_folder).with_ends(_ends(prepared))
    model = load_model(prepared.model_folder, lora=spec.lora)
    if spec.lora is not None:
        add_lora(model, spec.lora, spec.seed)
    settings = spec.hyperparameters.revised(precision=prepared.precision)
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    sets = [open_rows(source) for source in prepared.sources]
    loader = loader_of(prepared, sets, rank, world_size)
    more: dict[str, Any] = {}
    if prepared.teacher_folder is not None and not settings.stores_teacher:
        more["ref_model"] = load_model(prepared.teacher_folder)
    if spec.form.is_sampled and rewarded:
        more["reward_fn"] = _rewards(prepared, sets, permissions)
    trainer = create_trainer(
        spec.trainer,
        model=model,
        train_loader=loader,
        settings=settings,
        evaluators=build_evaluators(prepared, tokenizer, output_dir) if distributed.is_main() else (),
        output_dir=output_dir,
        tokenizer=tokenizer,
        **more,
    )
    for costs in prepared.inherited.values():
        trainer.costs.add(Costs.of(costs))
    return trainer


def _rewards(prepared: PreparedRun, sets: Sequence[TokenSet], permissions: Permissions) -> RewardSet:
    """The rewards of a run, of each source its own; those that several sources share are made once."""
    spec = prepared.spec
    device = str(training_device(spec.hyperparameters.device, spec.hyperparameters.deterministic))
    columns: dict[Any, list[str]] = {}
    judged_by = [(source.rewards, task_of(source.spec)) for source in prepared.sources]
    for (rewards, task), rows in zip(judged_by, sets, strict=True):
        assert isinstance(rows, PromptSet), "what is sampled is a set of prompts"
        check_rewarded(rewards, task, rows.asked())
        columns.setdefault((rewards, task), []).extend(rows.columns())
    made = {
        by: build_rewards(by[0], task=by[1], device=device, columns=names, permissions=permissions)
        for by, names in columns.items()
    }
    found = [made[by] for by in judged_by]
    _check_passes(spec, found)
    if not isinstance(spec.data, MixData):
        return found[0]
    return RewardsBySource([rewards for rewards in found for _ in range(spec.data.num_bands)])


def _check_passes(spec: RunSpec, rewards: Sequence[RewardSet]) -> None:
    """DefinitionError where a curriculum counts as passed what no completion can earn."""
    curriculum = spec.data.curriculum if isinstance(spec.data, MixData) else None
    if curriculum is None or curriculum.pass_rate is None:
        return
    rates = curriculum.pass_rate
    for maximum in (own.maximum for own in rewards if own.maximum is not None):
        if not rates.passes(maximum):
            where = place_of(spec, "data.curriculum.pass_rate.passes_at")
            raise DefinitionError(f"{where}: found {rates.passes_at:g}, allowed up to {maximum:g}, which rewards reach")


def find_overlaps(prepared: PreparedRun, runs: Path) -> list[leaks.Overlap]:
    """The overlaps of every held-out set with what was learned from."""
    found = []
    as_chat = trained_as_chat(prepared.sources)
    for index, own in enumerate(prepared.by_set):
        found += leaks.overlaps_of_stages(
            held_out_examples(own.spec, as_chat),
            None if own.held_out_pairs is None else own.held_out_pairs.folder,
            [source.data.folder for source in prepared.sources],
            prepared.spec.start,
            runs,
            beside=own.spec.set_name if index else None,
        )
    return found


def _ends(prepared: PreparedRun) -> list[int]:
    """Ids that end an answer in the training data, beside those that the model's files name."""
    return list(dict.fromkeys(end for source in prepared.sources for end in source.counts.ends.values()))


def made_of(prepared: PreparedRun, runs: Path) -> dict[str, Any]:
    """What the run rests on, for provenance.json."""
    spec, start = prepared.spec, None
    if spec.start is not None:
        start = {"folder": spec.start, "model_sha256": _model_sha256(runs, spec.start)}
    own: dict[str, Any] = {
        "threads": spec.threads,
        "data": prepared.data_files,
        "stages": prepared.stages,
        "start": start,
    }
    if isinstance(spec.teacher, str):
        own["teacher"] = {"folder": spec.teacher, "model_sha256": _model_sha256(runs, spec.teacher)}
    method = describe(type(spec.hyperparameters).described(), spec.hyperparameters)
    return {**own, "counts": prepared.counts, "method": method}


def _model_sha256(runs: Path, key: str) -> Any:
    return RunFolder(runs, key).status().get("model_sha256")


def _begin(folder: RunFolder, prepared: PreparedRun, provenance: Mapping[str, Any]) -> bool:
    """Whether another run was moved out of the way."""
    status = folder.status()
    moved = None
    if status and status.get("fingerprint") != prepared.identity.fingerprint:
        moved = folder.supersede()
        status = {}
    spec = prepared.spec
    own = made_of(prepared, folder.runs)
    own["measured_by"] = measuring_versions(spec) | counted_before(folder, status)
    own |= versions_of_others(spec)
    folder.begin(
        spec,
        {**provenance, **own},
        {
            "state": "running",
            "message": "",
            "pid": os.getpid(),
            "exit_code": None,
            "fingerprint": prepared.identity.fingerprint,
            "identity": prepared.identity.fields,
            "notes": list(prepared.notes),
            "commit": provenance.get("commit"),
            "code": provenance.get("code"),
            "threads": spec.threads,
            "processes": distributed.get_world_size(),
            "precision": prepared.precision,
            "seconds": status.get("seconds") or 0.0,
        },
    )
    return moved is not None


def _finish(folder: RunFolder, prepared: PreparedRun, trainer: BaseTrainer, seconds: float) -> None:
    ends = Tokenizer.load(prepared.model_folder).with_ends(_ends(prepared)).eos_ids
    with _source_of(prepared).unchanged():
        save_model(trainer.result, folder.model, prepared.model_folder, ends=ends)
    trained, frozen = count_parameters(trainer.unwrapped_model)
    own = trainer.costs.as_json()
    for costs in prepared.inherited.values():
        for name, value in costs.items():
            own[name] = None if own[name] is None else own[name] - value
    best = trainer.stopper.state if trainer.stopper else None
    folder.write_status(
        state=FINISHED,
        message="",
        exit_code=0,
        seconds=seconds,
        **_progress(trainer),
        stopped_by=trainer.stopped_by,
        best_step=best.best_step if best else None,
        best_value=best.best_value if best else None,
        restored=trainer.restored_best,
        device=str(trainer.device),
        num_parameters=trained + frozen,
        trained_parameters=trained,
        peak_memory_bytes=_peak_memory(trainer),
        model_sha256=file_sha256(weights_file(folder.model)),
        model_files=folder.model_files(),
        model_fingerprint=model_fingerprint(folder.model),
        costs={**own, "inherited": prepared.inherited},
    )


def _source_of(prepared: PreparedRun) -> Inputs:
    """What the saved model takes from the one that the run began with: configuration and tokenizer, and of an adapter
    alone the name of its base's weights."""
    lora = prepared.spec.lora
    whole = lora is not None and lora.save == "adapter"
    return Inputs.verified(
        {
            path: digest
            for path, digest in prepared.opened.items()
            if Path(path).parent == prepared.model_folder and (whole or not path.endswith(".safetensors"))
        }
    )


def _progress(trainer: BaseTrainer) -> dict[str, Any]:
    """How far a run came, and what there is to say of its way."""
    return {
        "step": trainer.step,
        "num_steps": trainer.num_steps,
        "warnings": trainer.warnings,
        "uncounted_flops": trainer.uncounted,
        "incidents": trainer.incidents,
        # They are of the weights that the run leaves: early stopping's best are not those that were judged last.
        "harms": [] if trainer.restored_best else trainer.health.standing,
        "inexact": trainer.inexact,
        "checkpoints": {"written": len(trainer.records.save_seconds), "seconds": sum(trainer.records.save_seconds)},
    }


def _peak_memory(trainer: BaseTrainer) -> int:
    if trainer.device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(trainer.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
